"""Trainings on a real Ray cluster of two nodes on this machine: what comes back, and what a death costs."""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.evaluation.executors.test_local import refuse, square
from tvm_mnas.errors import ConfigError, DataError, TrainingError
from tvm_mnas.evaluation.executors.protocol import ExecutorRequest, TaskOutcome, run_all
from tvm_mnas.evaluation.executors.ray import RayExecutor
from tvm_mnas.evaluation.executors.ray_cluster import ClusterSpec
from tvm_mnas.evaluation.executors.ray_task import Sent, installed_versions, run_sent
from tvm_mnas.plugins import EXECUTORS

ray = pytest.importorskip("ray")

Report = Callable[[int], None]
pytestmark = pytest.mark.timeout(120)


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("text")
        self.hook = lambda: one + two


def say(task: str, report: Report) -> str:
    print(f"heard {task}")
    print("a warning", file=sys.stderr)
    return f"{os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}"


def fail(task: str, report: Report) -> None:
    raise Unpicklable(1, 2) if task == "strange" else ZeroDivisionError(task)


def die_once(task: Path, report: Report) -> str:
    if task.name == "always" or not task.exists():
        task.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task.name


def wait_for(task: Path, report: Report) -> str:
    """Leave a file with the node's id and the process's, report, and go on when "go" is there."""
    here = ray.get_runtime_context().get_node_id()
    (task.parent / f"{task.name} {here} {os.getpid()} {time.monotonic_ns()}").touch()
    while not (task.parent / "go").exists():
        report(7)
        time.sleep(0.05)
    return here


class Leaving:
    """A task that leaves files, as a training leaves weights."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory, self.names = directory, names

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.directory / name for name in self.names)

    def written_to(self, directory: Path) -> Leaving:
        return Leaving(directory, *self.names)


def leave(task: Leaving, report: Report) -> str:
    for path in task.files:
        path.write_text(path.name)
        (path.parent / "of no interest").write_text("")
    if task.names[0] == "fails":
        raise TrainingError("at the end")
    return str(task.directory)


class Nodes:
    """A cluster of two nodes; a lost one is replaced."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.other = self.add()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        self.other = self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        return self.other

    def open(self, request: ExecutorRequest, text: str = "") -> RayExecutor:
        return RayExecutor(ClusterSpec.parse(f"{self.address}{text}"), request)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        opened = Nodes()
        yield opened
        opened.cluster.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "training.log"


@pytest.fixture(scope="module")
def warnings() -> list[str]:
    return []


@pytest.fixture(scope="module")
def executor(nodes: Nodes, log: Path, warnings: list[str]) -> Iterator[RayExecutor]:
    handler = signal.getsignal(signal.SIGTERM)
    with nodes.open(ExecutorRequest(log=log, on_warning=warnings.append)) as opened:
        assert signal.getsignal(signal.SIGTERM) is handler, "Ray takes it over"
        yield opened
    assert not ray.is_initialized()


def test_it_knows_what_the_cluster_has(executor: RayExecutor) -> None:
    assert (executor.devices, executor.slots) == (("cpu",), 2)


def test_results_come_with_their_index_and_the_last_steps(executor: RayExecutor) -> None:
    seen: list[int] = []
    outcomes = dict(run_all(executor, square, [5, 0, 3, 7], on_progress=seen.append))
    assert [outcomes[index].get() for index in range(4)] == [25, 0, 9, 49]
    assert seen[-1] == 15
    assert list(run_all(executor, square, [])) == []


def test_our_errors_are_outcomes_and_others_are_raised(executor: RayExecutor) -> None:
    outcomes = dict(run_all(executor, refuse, [0, 1, 2]))
    assert outcomes[0] == TaskOutcome(0, None)
    assert isinstance(outcomes[1].error, TrainingError)
    assert str(outcomes[1].error) == "the loss is NaN at step 3"
    assert isinstance(outcomes[2].error, DataError)
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        list(run_all(executor, fail, ["a mistake"]))
    with pytest.raises(RuntimeError, match="Unpicklable: text"):
        list(run_all(executor, fail, ["strange"]))
    assert dict(run_all(executor, square, [3])) == {0: TaskOutcome(9, None)}, "it goes on"


def test_what_a_task_prints_goes_to_the_log(executor: RayExecutor, log: Path) -> None:
    ((_, outcome),) = run_all(executor, say, ["me"])
    assert outcome.get().startswith("1 ")
    assert "heard me\na warning\n" in log.read_text()


def test_files_come_back(executor: RayExecutor, tmp_path: Path) -> None:
    ((_, outcome),) = run_all(executor, leave, [Leaving(tmp_path, "weights", "accuracy")])
    assert outcome.get() != str(tmp_path), "it was written elsewhere"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "weights": "weights",
        "accuracy": "accuracy",
    }
    ((_, outcome),) = run_all(executor, leave, [Leaving(tmp_path, "fails")])
    assert isinstance(outcome.error, TrainingError)
    assert not (tmp_path / "fails").exists(), "a training that failed leaves no weights"


def test_a_process_that_dies_costs_its_task_one_more_attempt(
    executor: RayExecutor, tmp_path: Path
) -> None:
    tasks = [tmp_path / "once", tmp_path / "always", tmp_path / "other"]
    tasks[2].touch()
    outcomes = dict(run_all(executor, die_once, tasks))
    assert (outcomes[0].result, outcomes[2].result) == ("once", "other")
    assert isinstance(outcomes[1].error, TrainingError)
    assert "a training process died twice" in str(outcomes[1].error)


def test_a_lost_node_costs_its_task_another_attempt_elsewhere(
    executor: RayExecutor, nodes: Nodes, warnings: list[str], tmp_path: Path
) -> None:
    here = ray.get_runtime_context().get_node_id()
    told: list[TaskOutcome[str]] = []
    tasks = [
        executor.submit(wait_for, tmp_path / name, lambda outcome: told.append(outcome))
        for name in ("one", "two")
    ]

    def begun() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in sorted(tmp_path.iterdir(), key=lambda path: path.name.split()[-1]):
            name, *rest = path.name.split()
            if rest:
                found.setdefault(name, []).append(rest[0])
        return found

    poll_until(executor, lambda: len(begun()) == 2 and all(task.steps == 7 for task in tasks))
    before = begun()
    (lost,) = (name for name, where in before.items() if where != [here])
    nodes.cluster.remove_node(nodes.other, allow_graceful=False)
    nodes.add()
    poll_until(executor, lambda: len(begun()[lost]) == 2)
    (tmp_path / "go").touch()
    poll_until(executor, lambda: len(told) == 2)
    after = begun()
    assert after[lost][0] == before[lost][0] != after[lost][1]
    (kept,) = set(after) - {lost}
    assert after[kept] == [here], "the other one was left alone"
    assert {outcome.result for outcome in told} == {here, after[lost][1]}
    assert [text.split("(")[0] for text in warnings] == ["a node of the Ray cluster was lost "]


def poll_until(executor: RayExecutor, holds: Callable[[], bool], *, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end
        executor.poll(0.1)
        time.sleep(0.02)


def test_so_many_jobs_run_at_once_and_what_runs_ends_with_the_context(
    executor: RayExecutor, nodes: Nodes, tmp_path: Path
) -> None:
    """Inside of a program that uses Ray itself, which stays connected."""
    with nodes.open(ExecutorRequest(jobs=1)) as second:
        assert second.slots == 1
        for name in ("one", "two"):
            second.submit(wait_for, tmp_path / name, lambda outcome: None)
        poll_until(second, lambda: any(tmp_path.iterdir()))
        second.poll(1.0)
        (began,) = tmp_path.iterdir()
    process = int(began.name.split()[-2])
    end = time.monotonic() + 30
    while psutil.pid_exists(process) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(process)
    assert dict(run_all(executor, square, [3])) == {0: TaskOutcome(9, None)}


def test_where_no_node_has_an_accelerator_one_is_waited_for(
    executor: RayExecutor, nodes: Nodes
) -> None:
    told: list[str] = []
    asked = ExecutorRequest(train_device="cuda", on_warning=told.append)
    with nodes.open(asked, ",gpus=0.5") as waiting:
        assert waiting.devices == ("cuda:0",)
    assert told == ["no node of the Ray cluster has an accelerator yet; trainings wait for one"]
    with (
        pytest.raises(ConfigError, match="--train-device is cuda:1; take auto, cpu or cuda"),
        nodes.open(ExecutorRequest(train_device="cuda:1")),
    ):
        pass


def test_an_accelerator_is_taken_where_there_is_one(executor: RayExecutor, nodes: Nodes) -> None:
    """One that Ray is told of: nothing is trained on it."""
    rich = nodes.cluster.add_node(num_cpus=3, num_gpus=1, object_store_memory=80 * 2**20)
    try:
        # One that was lost is counted until it has been silent for a while.
        poll_until(executor, lambda: sum(node["Alive"] for node in ray.nodes()) == 3)
        with nodes.open(ExecutorRequest(), ",gpus=0.5,cpus=2") as half:
            assert (half.devices, half.slots) == (("cuda:0",), 1)
            ((_, outcome),) = run_all(half, say, ["me"])
            assert outcome.get() == "2 0"
        with nodes.open(ExecutorRequest(train_device="cpu")) as without:
            assert (without.devices, without.slots) == (("cpu",), 5)
    finally:
        nodes.cluster.remove_node(rich)


def test_a_node_without_what_trains_is_told(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = types.ModuleType("ghost")
    exec("def train(task, report):\n    return task", ghost.__dict__)
    monkeypatch.setitem(sys.modules, "ghost", ghost)
    with pytest.raises(
        ConfigError, match=r"could not begin a training .*ghost.*; install the same there"
    ):
        list(run_all(executor, ghost.train, [1]))
    assert dict(run_all(executor, square, [3])) == {0: TaskOutcome(9, None)}, "it goes on"


def test_a_node_with_other_versions_is_named() -> None:
    others = {**installed_versions(), "torch": "1.0"}
    returned = run_sent(Sent(1, square, 3, others, 1), None)
    assert isinstance(returned.error, ConfigError)
    assert "torch is " in str(returned.error) and "and 1.0 here" in str(returned.error)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("", ClusterSpec()),
        ("here", ClusterSpec("here")),
        ("10.0.0.7:6379", ClusterSpec("10.0.0.7:6379")),
        ("10.0.0.7:6379,gpus=0.5,cpus=4", ClusterSpec("10.0.0.7:6379", cpus=4, gpus=0.5)),
        ("gpus=2", ClusterSpec(gpus=2)),
    ],
)
def test_the_name_of_a_cluster(text: str, spec: ClusterSpec) -> None:
    assert ClusterSpec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b", "and not 'b'"),
        ("gpu=1", "and not 'gpu=1'"),
        ("cpus=many", "and not 'cpus=many'"),
        ("gpus=1.5", "gpus of --executor ray is a part of one or a whole number, not 1.5"),
        ("cpus=0", "not 0"),
        ("gpus=nan", "not nan"),
    ],
)
def test_what_names_no_cluster_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EXECUTORS.load(f"ray:{text}")(ExecutorRequest())


@pytest.mark.parametrize("name", ["ray:127.0.0.1:1", "ray"])
def test_an_address_at_which_nothing_answers_is_told_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    began = time.monotonic()
    with (
        pytest.raises(
            ConfigError, match=r"no Ray cluster answers at 127.0.0.1:1 .*ray start --head"
        ),
        EXECUTORS.load(name)(ExecutorRequest()),
    ):
        pass
    assert time.monotonic() - began < 30


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'tvm-mnas\[ray\]'"):
        EXECUTORS.load("ray")(ExecutorRequest())
