"""A study's queue, over both kinds of database: nothing is lost, nothing is given out twice."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage

from gnn_moe.config import ModelConfig, RunConfig, TrainingConfig
from gnn_moe.errors import BadInput
from gnn_moe.studies.design import Point, grid, starting_points
from gnn_moe.studies.outcomes import Outcome
from gnn_moe.studies.queue import Claim, Queue, Row
from gnn_moe.studies.search import Search
from gnn_moe.studies.space import parse_variations
from gnn_moe.studies.storage import StorageLost, alone, default_url, open_storage
from gnn_moe.studies.workers import Worker, this_worker
from tests.small_runs import Accident, killed
from tests.studies.postgresql import Server

BASELINE = RunConfig(model=ModelConfig(embed_dim=64), training=TrainingConfig(seed=1))
EXPERTS = parse_variations(["num_experts=2,3,4", "coupler_type=GNN,mean"])
POINTS = grid(BASELINE, EXPERTS, [1, 2])
ELSEWHERE = Worker(machine="another machine", pid=1, started=0.0)
GONE = Worker(machine=this_worker().machine, pid=this_worker().pid, started=1.0)
"""A process of this machine that has our number and began in 1970."""


def folder_of(claim: Claim) -> Path:
    return Path("runs") / claim.point.name


def completed(loss: float = 4.5) -> Outcome:
    return Outcome(state="completed", best_eval_loss=loss, train_minutes=1.0, eval_minutes=0.5)


def failed(error_class: str) -> Outcome:
    return Outcome(state="failed", error_class=error_class, error_message="why", micro_batch_size=8)


Open = Callable[..., Queue]


@pytest.fixture
def open_queue(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    queues: list[Queue] = []

    def opened(worker: Worker | None = None, *, heartbeat: int = 60, search: Search | None = None) -> Queue:
        queues.append(open_one(url, request.node.name, tmp_path, worker or this_worker(), heartbeat, search))
        return queues[-1]

    yield opened
    for queue in queues:
        queue.close()


def open_one(
    url: str, name: str, folder: Path, worker: Worker, heartbeat: int = 60, search: Search | None = None
) -> Queue:
    return Queue(
        open_storage(url, heartbeat_seconds=heartbeat),
        name,
        lock_file=folder / ".lock",
        worker=worker,
        variations=EXPERTS if search is None else parse_variations(["learning_rate=1e-5..1e-1:log"]),
        search=search,
    )


def states(queue: Queue) -> list[str]:
    return [row.state for row in queue.rows()]


def take(queue: Queue) -> Claim:
    claim = queue.claim(folder_of)
    assert claim is not None
    return claim


def test_points_are_given_out_once_in_their_order_and_keep_their_outcome(open_queue: Open) -> None:
    queue = open_queue()
    queue.add(POINTS)
    queue.add(POINTS)
    assert states(queue) == ["waiting"] * 12
    claims = [take(queue) for _ in POINTS]
    assert [claim.point for claim in claims] == POINTS
    assert queue.claim(folder_of) is None
    assert states(queue) == ["running"] * 12
    for number, claim in enumerate(claims):
        queue.finish(claim.number, failed("crash") if number % 2 else completed(number))
    rows = open_queue().rows()
    assert [row.state for row in rows] == ["completed", "failed"] * 6
    assert [row.outcome and row.outcome.best_eval_loss for row in rows[::2]] == [0, 2, 4, 6, 8, 10]
    assert [row.run_folder for row in rows] == [str(Path("runs") / point.name) for point in POINTS]
    assert {row.attempts for row in rows} == {1}


def test_a_larger_sweep_adds_only_what_is_new(open_queue: Open) -> None:
    queue = open_queue()
    queue.add(POINTS[:4])
    queue.finish(take(queue).number, completed())
    queue.add(POINTS)
    assert states(queue) == ["completed", *["waiting"] * 11]


def test_what_a_dead_worker_had_is_given_out_again_at_once(open_queue: Open) -> None:
    queue = open_queue(GONE)
    queue.add(POINTS[:2])
    lost = take(queue)
    other = open_queue()
    claims = [take(other), take(other)]
    assert sorted(claim.point.key for claim in claims) == sorted(point.key for point in POINTS[:2])
    assert lost.point in [claim.point for claim in claims]
    assert other.claim(folder_of) is None
    assert sorted(row.attempts for row in other.rows()) == [1, 2]


def test_what_a_living_worker_has_is_left_to_it(open_queue: Open) -> None:
    queue = open_queue()
    queue.add(POINTS[:1])
    take(queue)
    assert open_queue().claim(folder_of) is None
    assert open_queue(ELSEWHERE).claim(folder_of) is None


@pytest.mark.slow
def test_a_worker_that_cannot_be_seen_and_is_silent_loses_its_trial(open_queue: Open) -> None:
    """Its process cannot be asked about from here: only its heartbeats tell."""
    silent, other = open_queue(ELSEWHERE, heartbeat=1), open_queue(heartbeat=1)
    silent.add(POINTS[:1])
    claim = take(silent)
    for _ in range(3):
        time.sleep(2)
        assert silent.beat([claim.number]) == []
        assert other.claim(folder_of) is None
    time.sleep(6)
    again = take(other)
    assert again.point == claim.point
    assert silent.beat([claim.number]) == [claim.number]
    # What the silent one says after all changes nothing.
    silent.finish(claim.number, failed("crash"))
    assert states(other) == ["running"]
    other.finish(again.number, completed())
    assert states(silent) == ["completed"]


def test_a_trial_given_back_waits_again(open_queue: Open) -> None:
    queue = open_queue()
    queue.add(POINTS[:1])
    queue.give_back(take(queue).number)
    assert states(queue) == ["waiting"]
    assert take(queue).point == POINTS[0]


def test_failed_points_run_again_only_when_asked_for(open_queue: Open) -> None:
    queue = open_queue()
    queue.add(POINTS[:3])
    for outcome in (failed("crash"), failed("out_of_memory"), completed()):
        queue.finish(take(queue).number, outcome)
    queue.add(POINTS[:3])
    assert queue.claim(folder_of) is None

    def ran_out(row: Row) -> bool:
        return row.outcome is not None and row.outcome.error_class == "out_of_memory"

    assert queue.retry(ran_out, lambda row: 4) == 1
    assert queue.retry(ran_out, lambda row: 4) == 0
    claim = take(queue)
    assert (claim.point, claim.micro_batch_size) == (POINTS[1], 4)
    queue.finish(claim.number, completed())
    assert states(queue) == ["failed", "completed", "completed"]
    assert queue.rows()[1].attempts == 2


def test_a_study_is_begun_once(open_queue: Open) -> None:
    seen: list[Mapping[str, Any]] = []
    assert open_queue().begin({"design": "grid"}, seen.append, known={})
    assert not open_queue().begin({"design": "search"}, seen.append, known={})
    assert open_queue().begin({"design": "search"}, seen.append, known={"design": "grid"})
    assert seen == [{}, {"design": "grid"}]

    def refuse(facts: Mapping[str, Any]) -> None:
        raise BadInput("changed")

    with pytest.raises(BadInput, match="changed"):
        open_queue().begin({}, refuse, known={"design": "grid"})


# ----- processes -----------------------------------------------------------------------------------------------------


def claim_all(url: str, name: str, folder: Path, pause: float) -> None:
    """A worker that completes whatever it gets, and writes down what that was."""
    queue = open_one(url, name, folder, this_worker())
    with (folder / f"{this_worker().pid}.txt").open("w") as file:
        while (claim := queue.claim(folder_of)) is not None:
            file.write(f"{claim.point.key}\n")
            time.sleep(pause)
            queue.finish(claim.number, completed())


def claim_one(url: str, name: str, folder: Path, accident: Accident) -> None:
    """A worker that something happens to."""
    queue = open_one(url, name, folder, this_worker())
    accident.prepare()
    queue.finish(take(queue).number, completed())


PROCESSES = multiprocessing.get_context("forkserver")


def test_workers_at_once_share_the_points(
    open_queue: Open, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    queue = open_queue()
    queue.add(POINTS)
    arguments = (url, request.node.name, tmp_path, 0.01)
    workers = [PROCESSES.Process(target=claim_all, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    given = [key for file in tmp_path.glob("*.txt") for key in file.read_text().split()]
    assert sorted(given) == sorted(point.key for point in POINTS)
    assert states(queue) == ["completed"] * 12


def test_the_queue_is_changed_by_one_worker_at_a_time(url: str, tmp_path: Path) -> None:
    """On a server also from two machines, which share no lock file."""
    stays: list[tuple[float, float]] = []
    storages = [open_storage(url, heartbeat_seconds=60) for _ in range(2)]
    names = ["one", "two"] if url.startswith("postgresql") else ["one", "one"]

    def stay(storage: RDBStorage, name: str) -> None:
        with alone(storage, "study", tmp_path / name):
            start = time.monotonic()
            time.sleep(0.2)
            stays.append((start, time.monotonic()))

    workers = [threading.Thread(target=stay, args=pair) for pair in zip(storages, names, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()
    (_, first_left), (second_came, _) = sorted(stays)
    assert first_left <= second_came


MOMENTS = [
    Accident("gnn_moe.studies.queue:optuna.Study.ask", 1, killed, "after"),
    Accident("gnn_moe.studies.queue:RDBStorage.record_heartbeat", 1, killed),
    Accident("gnn_moe.studies.queue:optuna.Trial.set_user_attr", 1, killed, "after"),
    Accident("gnn_moe.studies.queue:optuna.Trial.set_user_attr", 2, killed, "after"),
    Accident("gnn_moe.studies.queue:RDBStorage.set_trial_user_attr", 2, killed),
    Accident("gnn_moe.studies.queue:optuna.Study.tell", 1, killed),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_worker_killed_at_any_moment_loses_nothing(
    moment: Accident, open_queue: Open, url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    queue = open_queue()
    queue.add(POINTS[:2])
    worker = PROCESSES.Process(target=claim_one, args=(url, request.node.name, tmp_path, moment))
    worker.start()
    worker.join()
    assert worker.exitcode == -9
    claims = [take(queue), take(queue)]
    assert sorted(claim.point.key for claim in claims) == sorted(point.key for point in POINTS[:2])
    assert queue.claim(folder_of) is None
    # Killed after its outcome was kept and before it was told: whoever is next need not run it.
    kept = [claim.outcome for claim in claims if claim.outcome is not None]
    assert kept == ([completed()] if "tell" in moment.target else [])


# ----- a search ------------------------------------------------------------------------------------------------------


def search_of(trials: int = 6, objectives: tuple[str, ...] = ("loss",)) -> Search:
    return Search(baseline=BASELINE, objectives=objectives, trials=trials)


def drawn(queue: Queue, count: int) -> list[Point]:
    points = []
    for number in range(count):
        claim = take(queue)
        queue.finish(claim.number, completed(4 + number / 10))
        points.append(claim.point)
    return points


def test_a_search_draws_its_points_and_ends(open_queue: Open) -> None:
    queue = open_queue(search=search_of())
    queue.add(starting_points(BASELINE, parse_variations(["learning_rate=1e-5..1e-1:log"]), 1))
    rates = [point.params["learning_rate"] for point in drawn(queue, 6)]
    assert rates[0] == BASELINE.training.learning_rate
    assert len(set(rates)) == 6
    assert all(isinstance(rate, float) and 1e-5 <= rate <= 1e-1 for rate in rates)
    assert queue.claim(folder_of) is None


def test_a_search_begun_again_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def draw(name: str, count: int) -> list[Point]:
        with closing(open_one(default_url(tmp_path), name, tmp_path, this_worker(), search=search_of())) as queue:
            return drawn(queue, count)

    assert draw("parts", 2) + draw("parts", 4) == draw("whole", 6)


def test_a_finite_space_ends_too(tmp_path: Path) -> None:
    """What was drawn before is not run again, and counts."""
    variations = parse_variations(["num_experts=2..3"])
    queue = Queue(
        open_storage(default_url(tmp_path), heartbeat_seconds=60),
        "finite",
        lock_file=tmp_path / ".lock",
        worker=this_worker(),
        variations=variations,
        search=search_of(12),
    )
    seen = []
    while (claim := queue.claim(folder_of)) is not None:
        queue.finish(claim.number, completed())
        seen.append(claim.point.params["num_experts"])
    queue.close()
    assert set(seen) == {2, 3}
    assert len(seen) == 2


def test_a_trial_that_is_behind_is_pruned(open_queue: Open) -> None:
    queue = open_queue(search=search_of(8))
    for _ in range(4):
        claim = take(queue)
        assert not queue.is_hopeless(claim.number, {10: 9.0})
        assert not queue.is_hopeless(claim.number, {10: 9.0, 20: 4.0})
        queue.finish(claim.number, completed(4.0))
    ahead, behind = take(queue), take(queue)
    assert not queue.is_hopeless(ahead.number, {10: 5.0})
    assert not queue.is_hopeless(behind.number, {10: 9.0})
    assert queue.is_hopeless(behind.number, {10: 9.0, 20: 8.0})
    queue.finish(behind.number, Outcome(state="completed", pruned=True, best_eval_loss=8.0))
    (row,) = [row for row in queue.rows() if row.point == behind.point]
    assert row.state == "completed"
    assert row.outcome is not None
    assert row.outcome.pruned


def test_with_several_objectives_none_is_pruned(open_queue: Open) -> None:
    queue = open_queue(search=search_of(8, ("loss", "minutes")))
    for loss in (1.0, 1.0, 1.0, 1.0, 99.0):
        claim = take(queue)
        assert not queue.is_hopeless(claim.number, {10: loss})
        queue.finish(claim.number, completed(loss))


# ----- a server that is lost -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(
    postgresql: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    queue = open_one(postgresql.url, request.node.name, tmp_path, this_worker())
    queue.add(POINTS[:2])
    claim = take(queue)
    postgresql.stop()
    try:
        for ask in (queue.rows, lambda: queue.claim(folder_of), lambda: queue.finish(claim.number, completed())):
            with pytest.raises(StorageLost):
                ask()
    finally:
        postgresql.start()
    queue.finish(claim.number, completed())
    assert states(queue) == ["completed", "waiting"]
    queue.close()
