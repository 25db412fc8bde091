"""A search whose trainings run on a Ray cluster of two nodes is the one that this machine does alone.

Trainings are real and short, latencies are formulas, so that rewards can be compared.

    PYTHONPATH=. python tests/search/test_on_a_cluster.py RUN EXECUTOR     # go on with the search in RUN
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.search.test_loop import assert_complete, controller_of
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import CandidateError
from tvm_mnas.evaluation.executors.protocol import Executor, ExecutorRequest, run_all
from tvm_mnas.evaluation.results import Evaluation
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.plugins import EXECUTORS
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.search.session import sampler_of
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.testing import SyntheticCandidates

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 16
DEADLINE_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Trained:
    """Accuracies of real trainings, latencies of formulas."""

    run: RunDirectory
    executor: Executor
    formulas: SyntheticCandidates

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        tasks = [
            TrainTask.of(candidate, self.run.config, self.run.recipe, self.executor.devices)
            for candidate in candidates
        ]
        for index, outcome in run_all(self.executor, run_training, tasks):
            assert not isinstance(outcome.error, CandidateError), outcome.error
            evaluation = self.formulas.evaluation(candidates[index])
            yield index, replace(evaluation, accuracy=outcome.get())


def go_on(path: Path, executor: str) -> None:
    """Bring the run in `path` to its trials."""
    run = RunDirectory.open(path)
    space = load_space(run.config.space)
    asked = ExecutorRequest(jobs=2, train_device="cpu", on_warning=print)
    with run.lock(), EXECUTORS.load(executor)(asked) as opened:
        evaluator = Trained(run, opened, SyntheticCandidates(space))
        run_trials(run, space, run.study(sampler_of(run, space)), evaluator)


def new_run(path: Path) -> Path:
    config = SearchConfig(trials=TRIALS, batch=4, train_steps=20, seed=3, target_latency_ms=80.0)
    return RunDirectory.create(path, config).path


def results_of(path: Path) -> list[tuple[Any, ...]]:
    """What does not depend on the clock."""
    return [
        (
            record.number,
            record.evaluation.architecture.notation,
            record.evaluation.accuracy and record.evaluation.accuracy.top1,
            record.reward,
        )
        for record in RunDirectory.open(path).finished_trials()
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search on this machine's own processes."""
    path = new_run(tmp_path_factory.mktemp("alone") / "run")
    go_on(path, "local")
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    memory = 80 * 2**20
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": memory}
    opened = Cluster(initialize_head=True, head_node_args=head)
    opened.add_node(num_cpus=1, object_store_memory=memory)
    yield opened
    opened.shutdown()


def assert_the_same(path: Path, alone: Path) -> None:
    assert_complete(path, TRIALS)
    assert results_of(path) == results_of(alone)
    assert controller_of(path) == controller_of(alone) is not None


def begin(path: Path, cluster: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, str(path), f"ray:{cluster.address}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, trials: int, search: subprocess.Popen[str]) -> None:
    end = time.monotonic() + DEADLINE_S
    while len(RunDirectory.open(path).finished_trials()) < trials:
        assert search.poll() is None, "it ended before it was disturbed"
        assert time.monotonic() < end
        time.sleep(0.2)


def trainers() -> list[psutil.Process]:
    """Return the processes in which Ray trains something now."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ray::run_sent" in " ".join(process.info["cmdline"] or ())
    ]


def until(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_the_trials_the_rewards_and_the_controller_are_those_of_one_machine(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    path = new_run(tmp_path / "run")
    search = begin(path, cluster)
    assert search.wait(DEADLINE_S) == 0
    assert_the_same(path, alone)
    assert len({record[1] for record in results_of(path)}) > TRIALS // 2


def test_a_worker_and_then_a_node_killed_change_nothing(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    path = new_run(tmp_path / "run")
    search = begin(path, cluster)
    wait_for(path, 3, search)
    until(trainers)[0].kill()
    wait_for(path, 6, search)
    until(lambda: len(trainers()) == 2)
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    output, _ = search.communicate(timeout=DEADLINE_S)
    assert search.returncode == 0
    assert "a node of the Ray cluster was lost" in output
    assert_the_same(path, alone)


def test_a_driver_killed_and_gone_on_with_changes_nothing(
    cluster: Any, alone: Path, tmp_path: Path
) -> None:
    path = new_run(tmp_path / "run")
    for trials in (2, 7):
        search = begin(path, cluster)
        wait_for(path, trials, search)
        until(trainers)
        search.send_signal(signal.SIGKILL)
        search.wait()
        assert len(RunDirectory.open(path).finished_trials()) < TRIALS
    assert begin(path, cluster).wait(DEADLINE_S) == 0
    assert_the_same(path, alone)


def test_tasks_that_sleep_fill_the_slots(cluster: Any) -> None:
    """64 of 2 s on 16 slots: 8 s at best."""
    cluster.add_node(num_cpus=14, object_store_memory=80 * 2**20)
    request = ExecutorRequest(train_device="cpu")
    with EXECUTORS.load(f"ray:{cluster.address}")(request) as executor:
        assert executor.slots == 16
        # Its processes start first, as in a search from its second batch on.
        list(run_all(executor, rest, [0.5] * 32))
        began = time.monotonic()
        list(run_all(executor, rest, [2.0] * 64))
        took_s = time.monotonic() - began
    print(f"64 tasks of 2 s on 16 slots took {took_s:.2f} s, {took_s / 8:.3f} of the ideal")
    assert took_s < 1.15 * 8


def rest(task: float, report: Callable[[int], None]) -> None:
    time.sleep(task)


if __name__ == "__main__":
    go_on(Path(sys.argv[1]), sys.argv[2])
