"""The layout: imports go down only, files stay short, torch stays out of the config, nothing names one machine.

`import_violations` and the other checkers take a folder, so that the last tests can hand them a bad tree and see them
fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "gnn_moe"

LAYERS = (
    ("cli", "__main__"),
    ("reports",),
    ("studies",),
    ("plans", "runs", "run_folder", "run_summary", "evaluations"),
    ("figures",),
    ("training",),
    ("interop",),
    ("model",),
    ("hypergraph",),
    ("data",),
    ("config", "parsing", "hyperedges", "coupler_types", "checks", "errors"),
)
"""The parts of the package from top to bottom; a part imports itself, those on its line and those below."""
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

TORCH_FREE = ("config", "parsing", "hyperedges", "coupler_types", "checks", "errors")
LONGEST_FILE = 400
CODE_FOLDERS = ("src", "tests", "benchmarks", "examples")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".cfg", ".json", ".yaml", ".yml", ".sh", ".in"}
TEXT_NAMES = {"Makefile", "run", ".gitignore"}
# Each in two pieces, so that this file does not name what it forbids.
MACHINE_PATH = re.compile(r"(?<![\w.~/>}\)-])/" + r"(?:work|home|root|Users|mnt|opt)/\w|\b[A-Za-z]:" + r"\\Users\\")


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in a file, also in functions and under TYPE_CHECKING.

    `from a import b` gives `a.b`: b may be a module. `package` is what relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and _name(node.func) in ("import_module", "__import__"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def source_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def import_violations(package_folder: Path) -> list[str]:
    """What breaks the import rule in a tree of the package, one line each; `gnn_moe/__init__.py` is exempt."""
    violations: list[str] = []
    for path in source_files(package_folder):
        relative = path.relative_to(package_folder)
        part = relative.parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        if part not in RANK:
            violations.append(f"{relative}: {part!r} has no place in the layout")
            continue
        package = ".".join((PACKAGE, *relative.parts[:-1]))
        for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8")), package):
            if reason := _broken_rule(part, module):
                violations.append(f"{relative}:{line}: {reason}")
    return violations


def _broken_rule(part: str, module: str) -> str | None:
    root, _, rest = module.partition(".")
    target = rest.partition(".")[0]
    if root == "torch" and part in TORCH_FREE:
        return f"{part} imports torch"
    if root != PACKAGE or target.startswith("__version"):
        return None
    if target not in RANK:
        return f"{part} imports {module}: name the module, not what the package re-exports"
    return f"{part} imports {target}, which is above it" if RANK[target] < RANK[part] else None


def long_files(root: Path) -> list[str]:
    paths = [path for folder in CODE_FOLDERS for path in source_files(root / folder)]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return [f"{path.relative_to(root)}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST_FILE]


def machine_paths(root: Path, paths: list[Path]) -> list[str]:
    """Lines that name a folder of one machine; `/usr` and `/tmp` are everybody's."""
    found: list[str] = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    return found


def text_files(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so which files belong to the project is not known")
    paths = [root / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and (path.suffix in TEXT_SUFFIXES or path.name in TEXT_NAMES)]


def test_imports_go_down_only() -> None:
    assert import_violations(ROOT / "src" / PACKAGE) == []


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == []


def test_nothing_names_one_machine() -> None:
    assert machine_paths(ROOT, text_files(ROOT)) == []


@pytest.mark.parametrize("module", ["gnn_moe", "gnn_moe.config"])
def test_torch_is_not_imported_by(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'datasets', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


BAD_FILES = {
    "data/tokenizers.py": ("from gnn_moe.training import loop", "data imports training"),
    "model/experts.py": ("def f():\n    import gnn_moe.runs", "model imports runs"),
    "config.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gnn_moe.data import x",
        "config imports data",
    ),
    "errors.py": ("import torch.nn", "errors imports torch"),
    "hypergraph.py": ("from .model import experts", "hypergraph imports model"),
    "training/loop.py": ("from ..figures import curves", "training imports figures"),
    "interop/names.py": (
        "from importlib import import_module\nimport_module('gnn_moe.training.loop')",
        "interop imports",
    ),
    "figures/curves.py": ("from gnn_moe import load_model", "name the module"),
    "runs.py": ("import gnn_moe", "name the module"),
    "utils.py": ("", "'utils' has no place"),
}


@pytest.mark.parametrize(("name", "content", "reason"), [(name, *rest) for name, rest in BAD_FILES.items()])
def test_import_rule_finds(name: str, content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    (violation,) = import_violations(tmp_path)
    assert violation.startswith(name)
    assert reason in violation


def test_import_rule_allows(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "experts.py").write_text(
        "import torch\nfrom . import couplers\nfrom .couplers import Coupler\nfrom gnn_moe.config import ModelConfig\n"
        "from gnn_moe import hypergraph\nfrom ..errors import BadInput\nimport gnn_moe.data.batches\n"
    )
    (tmp_path / "__init__.py").write_text("from gnn_moe.model import build_model")
    (tmp_path / "config.py").write_text("from gnn_moe.errors import BadInput")
    (tmp_path / "__main__.py").write_text("from gnn_moe.cli import main\nfrom gnn_moe import __version__")
    assert import_violations(tmp_path) == []


def test_length_rule_finds(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "fits.py").write_text("pass\n" * LONGEST_FILE)
    (tmp_path / "src" / "long.py").write_text("pass\n" * (LONGEST_FILE + 1))
    assert long_files(tmp_path) == [f"{Path('src', 'long.py')}: 401 lines"]


@pytest.mark.parametrize("folder", ["work/shared", "home/me", "root/x", "Users/me"])
def test_machine_path_rule_finds(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(f"open('/{folder}/data.txt')\nopen('results/{folder}/data')\nopen('../{folder}')\n")
    assert machine_paths(tmp_path, [path]) == [f"script.py:1: open('/{folder}/data.txt')"]
