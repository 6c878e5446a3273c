"""Commands: a shell reads the same words again, from lines that a page holds."""

from __future__ import annotations

import shlex

import pytest

from gnn_moe.reports.commands import command

LONG = ["gnn-moe", "train", *[word for n in range(12) for word in (f"--a_flag_{n}", "a value")], "--last"]


@pytest.mark.parametrize("words", [["gnn-moe"], ["gnn-moe", "x", "--a", "b c", "--", "--d='"], LONG])
def test_a_shell_reads_the_words_again(words: list[str]) -> None:
    text = command(words)
    assert shlex.split(text.replace("\\\n", " ")) == words
    assert all(len(line) <= 102 for line in text.splitlines())


def test_short_commands_stay_on_one_line() -> None:
    assert command(["gnn-moe", "train", "--seed", "1"]) == "gnn-moe train --seed 1"
    assert len(command(LONG).splitlines()) > 1
