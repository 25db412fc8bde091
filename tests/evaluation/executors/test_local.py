"""The executor: a process that dies costs its own task and nothing else, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tvm_mnas.errors import DataError, TrainingError
from tvm_mnas.evaluation.executors.inline import InlineExecutor
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import TaskOutcome, run_all
from tvm_mnas.training.accelerators import WORKER_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
Report = Callable[[int], None]


def square(task: int, report: Report) -> int:
    for step in range(task):
        report(step + 1)
    return task * task


def refuse(task: int, report: Report) -> int:
    if task == 1:
        raise TrainingError("the loss is NaN at step 3")
    if task == 2:
        raise DataError("the images are gone")
    return task


def break_down(task: int, report: Report) -> int:
    raise ZeroDivisionError("a mistake of ours")


def die(task: str, report: Report) -> str:
    """A task is a text; "always" kills its process, a path kills it where there is no such file yet."""
    if task == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.startswith("/"):
        marker = Path(task)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} done"


def die_or_count(task: str, report: Report) -> str:
    """What `die` does, and a task "count FILE" adds a letter to the file."""
    if task.startswith("count "):
        with open(task.removeprefix("count "), "a") as file:
            file.write("x")
        return f"{task} done"
    return die(task, report)


def tell_process(task: Path, report: Report) -> int:
    """Leave a file with our process id, then take longer than pytest lets a test take."""
    (task / str(os.getpid())).touch()
    report(1)
    time.sleep(600)
    return 0


def process_of(task: int, report: Report) -> tuple[int, str | None]:
    time.sleep(0.2)
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def worker_of(task: int, report: Report) -> tuple[int, str | None]:
    time.sleep(0.2)
    return os.getpid(), os.environ.get(WORKER_VARIABLE)


def interrupt(task: int, report: Report) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return task


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(jobs=2) as opened:
        yield opened


def test_each_worker_knows_its_number(executor: LocalExecutor) -> None:
    found = {outcome.result for _, outcome in run_all(executor, worker_of, list(range(6)))}
    assert sorted(number for _, number in found) == ["0", "1"]


def test_results_come_with_their_index(executor: LocalExecutor) -> None:
    outcomes = dict(run_all(executor, square, [5, 0, 3, 7]))
    assert outcomes == {
        index: TaskOutcome(result, None) for index, result in enumerate([25, 0, 9, 49])
    }


def test_nothing_to_do_is_done(executor: LocalExecutor) -> None:
    assert list(run_all(executor, square, [])) == []


def test_progress_ends_with_the_sum_of_all_tasks(executor: LocalExecutor) -> None:
    seen: list[int] = []
    list(run_all(executor, square, [100, 20, 3], on_progress=seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == 123
    seen.clear()
    list(run_all(executor, square, [4], on_progress=seen.append))
    assert seen[-1] == 4, "the tasks before still count"


def test_our_errors_are_outcomes(executor: LocalExecutor) -> None:
    outcomes = dict(run_all(executor, refuse, [0, 1, 2, 3]))
    assert outcomes[0] == TaskOutcome(0, None)
    assert outcomes[3] == TaskOutcome(3, None)
    assert outcomes[1].result is None
    assert isinstance(outcomes[1].error, TrainingError)
    assert str(outcomes[1].error) == "the loss is NaN at step 3"
    assert isinstance(outcomes[2].error, DataError)


def test_other_errors_are_raised(executor: LocalExecutor) -> None:
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        list(run_all(executor, break_down, [0]))
    assert dict(run_all(executor, square, [2])) == {0: TaskOutcome(4, None)}


def test_workers_are_warm_and_have_one_thread_each(executor: LocalExecutor) -> None:
    first = [outcome.result for _, outcome in run_all(executor, process_of, range(2))]
    second = [outcome.result for _, outcome in run_all(executor, process_of, range(2))]
    processes = {process for process, _ in filter(None, first + second)}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes
    assert {threads for _, threads in filter(None, first)} == {"1"}


def test_an_interrupt_is_the_parents_affair(executor: LocalExecutor) -> None:
    assert dict(run_all(executor, interrupt, [1])) == {0: TaskOutcome(1, None)}


def test_a_task_that_kills_its_process_costs_itself_only(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    tasks = ["a", "always", "b", str(tmp_path / "once"), "c"]
    outcomes = dict(run_all(executor, die, tasks))
    assert sorted(outcomes) == [0, 1, 2, 3, 4], "each task has one outcome"
    assert isinstance(outcomes[1].error, TrainingError)
    assert "died twice" in str(outcomes[1].error)
    for index in (0, 2, 3, 4):
        assert outcomes[index] == TaskOutcome(f"{tasks[index]} done", None)
    assert dict(run_all(executor, square, [3])) == {0: TaskOutcome(9, None)}, "it goes on"


def test_a_death_costs_the_others_nothing_and_a_worker_keeps_its_number(tmp_path: Path) -> None:
    """Eight that kill their process once, beside eight that do not: each of these runs once."""
    dying = [str(tmp_path / f"once{number}") for number in range(8)]
    counted = [f"count {tmp_path / f'count{number}'}" for number in range(8)]
    tasks = [task for pair in zip(dying, counted, strict=True) for task in pair]
    with LocalExecutor(jobs=2) as executor:
        outcomes = dict(run_all(executor, die_or_count, tasks))
        assert {outcome.result for outcome in outcomes.values()} == {
            f"{task} done" for task in tasks
        }
        found = {outcome.result for _, outcome in run_all(executor, worker_of, list(range(4)))}
    assert sorted(number for _, number in filter(None, found)) == ["0", "1"]
    assert all(path.read_text() == "x" for path in tmp_path.glob("count*"))


def test_many_tasks_have_room(executor: LocalExecutor) -> None:
    outcomes = dict(run_all(executor, square, [2] * 5000))
    assert len(outcomes) == 5000
    assert set(outcomes.values()) == {TaskOutcome(4, None)}


def test_tasks_of_two_callers_are_each_told_their_own(executor: LocalExecutor) -> None:
    told: list[TaskOutcome[int]] = []
    executor.submit(square, 5, told.append)
    executor.submit(square, 6, told.append)
    assert dict(run_all(executor, square, [7])) == {0: TaskOutcome(49, None)}
    while len(told) < 2:
        executor.poll(0.1)
    assert sorted(outcome.result or 0 for outcome in told) == [25, 36]


def test_a_worker_that_died_while_idle_is_replaced(executor: LocalExecutor) -> None:
    ((process, _),) = [o.result for _, o in run_all(executor, process_of, [0]) if o.result]
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not is_alive(process))
    time.sleep(0.1)
    assert dict(run_all(executor, square, [3])) == {0: TaskOutcome(9, None)}


def test_inline_everything_runs_in_this_process() -> None:
    seen: list[int] = []
    with InlineExecutor() as executor:
        outcomes = dict(run_all(executor, refuse, [0, 1, 3]))
        found = [outcome.result for _, outcome in run_all(executor, process_of, [0])]
        list(run_all(executor, square, [3, 4], on_progress=seen.append))
        with pytest.raises(ZeroDivisionError):
            list(run_all(executor, break_down, [0]))
    assert outcomes[0].result == 0 and isinstance(outcomes[1].error, TrainingError)
    assert found[0] is not None and found[0][0] == os.getpid()
    assert seen == [3, 7]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    # A zombie runs no more; whether somebody reaps it is the machine's affair.
    return state != "Z"


def wait_until(holds: Callable[[], bool], *, deadline_s: float = 60.0) -> bool:
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def workers_in(directory: Path) -> list[int]:
    return [int(path.name) for path in directory.iterdir()]


def test_no_worker_outlives_the_context(tmp_path: Path) -> None:
    def stop(steps: int) -> None:
        if len(workers_in(tmp_path)) == 2:
            raise KeyboardInterrupt

    with LocalExecutor(jobs=2) as executor, pytest.raises(KeyboardInterrupt):
        list(run_all(executor, tell_process, [tmp_path] * 3, on_progress=stop))
    workers = workers_in(tmp_path)
    assert len(workers) == 2
    assert wait_until(lambda: not any(map(is_alive, workers)))


PARENT = """
import sys
from pathlib import Path
from tests.evaluation.executors.test_local import tell_process
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import run_all
if __name__ == "__main__":
    with LocalExecutor(jobs=2) as executor:
        list(run_all(executor, tell_process, [Path(sys.argv[1])] * 2))
"""


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    told = tmp_path / "told"
    told.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(told)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    try:
        assert wait_until(lambda: len(workers_in(told)) == 2)
        workers = workers_in(told)
        assert all(map(is_alive, workers))
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not any(map(is_alive, workers)))
