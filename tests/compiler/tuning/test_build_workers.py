"""Build workers stay warm, and a compiler that fails, crashes or hangs costs one schedule."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.core.linking import Linker, find_linker
from tvm_mnas.compiler.tuning.build_workers import BuildRequest, BuildResult, WarmBuilder
from tvm_mnas.errors import HostError

DEADLINE_S = 3.0
PAUSED_DEADLINE_S = 4.0
"""What a build has before it is paused, on a machine however busy."""
ROUNDS = 4


@pytest.fixture(scope="module")
def kernel(lowered: LoweredNetwork) -> Kernel:
    return next(item for item in lowered.kernels if "matmul" in item.name)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linker") / "linker"


@pytest.fixture(scope="module")
def fragile(
    script: Path, core: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WarmBuilder]:
    """Yield a builder whose linker is a script that each test writes anew."""
    with WarmBuilder(
        cores=[core],
        linker=Linker((str(script),)),
        log=tmp_path_factory.mktemp("log") / "builder.log",
        build_deadline_s=DEADLINE_S,
        rounds_per_worker=ROUNDS,
    ) as opened:
        yield opened


@pytest.fixture
def link_with(script: Path) -> Callable[[str], None]:
    def write(body: str) -> None:
        part = script.with_name("part")
        part.write_text(f"#!/bin/sh\n{body}\n")
        part.chmod(0o755)
        part.replace(script)

    return write


def _round(kernel: Kernel, target: str, *, schedules: int = 1, seed: int = 1) -> BuildRequest:
    return BuildRequest(
        workload=kernel.workload, target=target, records=(), schedules=schedules, seed=seed
    )


def _result(builder: WarmBuilder, ticket: int, *, within_s: float = 120.0) -> BuildResult:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for result in builder.poll(0.05):
            assert result.ticket == ticket
            return result
    raise AssertionError(f"no result within {within_s} s")


def test_a_round_gives_libraries_of_different_schedules(
    builder: WarmBuilder, kernel: Kernel, target: str
) -> None:
    result = _result(builder, builder.submit(_round(kernel, target, schedules=3)))
    assert result.error is None
    assert [built.failure for built in result.built] == [None] * 3
    assert len({built.record for built in result.built}) == 3
    for built in result.built:
        assert built.path.read_bytes()[:4] == b"\x7fELF"
        built.path.unlink()


def test_schedules_follow_from_the_seed(builder: WarmBuilder, kernel: Kernel, target: str) -> None:
    first, second, other = (
        [
            built.record
            for built in _result(
                builder, builder.submit(_round(kernel, target, schedules=3, seed=seed))
            ).built
        ]
        for seed in (11, 11, 12)
    )
    assert first == second
    assert first != other


@pytest.mark.timed
def test_a_warm_build_takes_no_import(builder: WarmBuilder, kernel: Kernel, target: str) -> None:
    """An import of TVM alone takes more processor time, and the stock builder's ten times as much."""
    _result(builder, builder.submit(_round(kernel, target)))
    (worker,) = (psutil.Process(pid) for pid in builder.processes())
    before = worker.cpu_times()
    _result(builder, builder.submit(_round(kernel, target, schedules=2, seed=4)))
    after = worker.cpu_times()
    spent_s = sum(after[:4]) - sum(before[:4])
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import tvm"], check=True, timeout=120)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    import_s = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    assert spent_s < import_s / 2


def test_a_worker_stays_on_its_core(builder: WarmBuilder, core: int) -> None:
    for pid in builder.processes():
        assert os.sched_getaffinity(pid) == {core}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo no space left >&2; exit 1", "build-error"),
        ("kill -SEGV $PPID; sleep 1", "build-crash"),
        ("exec sleep 60", "build-timeout"),
    ],
)
def test_a_build_that_fails_costs_its_own_schedule(
    body: str,
    reason: str,
    fragile: WarmBuilder,
    link_with: Callable[[str], None],
    kernel: Kernel,
    target: str,
) -> None:
    link_with(body)
    result = _result(fragile, fragile.submit(_round(kernel, target)))
    assert result.error is None
    (built,) = result.built
    assert built.failure is not None
    assert built.failure.startswith(f"{reason}:")
    assert not built.path.exists()
    assert fragile.idle == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [("kill -SEGV $PPID; sleep 1", "build-crash"), ("exec sleep 60", "build-timeout")],
)
def test_the_builds_after_one_that_fails_go_to_a_new_process(
    body: str,
    reason: str,
    fragile: WarmBuilder,
    link_with: Callable[[str], None],
    kernel: Kernel,
    target: str,
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    link = " ".join(find_linker(target).command)
    link_with(f'echo $PPID >> {pids}\ncase "$*" in *-1.so*) {body};; *) exec {link} "$@";; esac')
    result = _result(fragile, fragile.submit(_round(kernel, target, schedules=4)))
    failures = [built.failure for built in result.built]
    assert [failure is None for failure in failures] == [True, False, True, True]
    assert str(failures[1]).startswith(f"{reason}:")
    for built in result.built:
        assert built.path.exists() == (built.failure is None)
    first, second, third, fourth = pids.read_text().split()
    assert first == second != third == fourth


def test_a_killed_worker_is_replaced(
    fragile: WarmBuilder, link_with: Callable[[str], None], kernel: Kernel, target: str
) -> None:
    link_with("exec sleep 60")
    ticket = fragile.submit(_round(kernel, target, seed=2))
    (pid,) = fragile.processes()
    os.kill(pid, signal.SIGKILL)
    result = _result(fragile, ticket)
    assert result.error is not None
    assert result.error.startswith("worker-died")
    assert result.built == ()
    assert fragile.idle == 1
    link_with("exit 1")
    again = _result(fragile, fragile.submit(_round(kernel, target, seed=3)))
    assert again.error is None
    assert fragile.processes() != [pid]


def _states(group: int) -> list[str]:
    """Return the states of all processes of a process group, as the kernel tells them."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                states.append(fields[0])
    return states


def test_a_borrowed_core_builds_nothing_while_it_is_paused(
    script_linker: Callable[[str], Linker], core: int, kernel: Kernel, target: str, tmp_path: Path
) -> None:
    # The build waits for this file, so the pause meets it half done.
    go = tmp_path / "go"
    linker = script_linker(
        f"touch {tmp_path}/waits; until [ -e {go} ]; do sleep 0.05; done; exit 1"
    )
    with WarmBuilder(
        cores=[],
        borrowed=[core],
        linker=linker,
        log=tmp_path / "log",
        build_deadline_s=PAUSED_DEADLINE_S,
    ) as opened:
        assert opened.processes() == []
        opened.pause()
        assert opened.idle == 0
        opened.resume()
        ticket = opened.submit(_round(kernel, target))
        while not (tmp_path / "waits").exists():
            assert opened.poll(0.05) == []
        opened.pause()
        (group,) = opened.processes()
        # A sleep that had just ended stays a zombie while the shell that waits for it is stopped.
        while not set(_states(group)) <= {"T", "Z"}:
            time.sleep(0.01)
        # The worker, the build and its linker; as long as that takes, it is not the build's time.
        assert len(_states(group)) >= 3
        time.sleep(PAUSED_DEADLINE_S + 0.5)
        go.touch()
        assert opened.poll(0.2) == []
        opened.resume()
        result = _result(opened, ticket)
    assert result.error is None
    failures = [built.failure for built in result.built]
    assert all(failure is not None and failure.startswith("build-error") for failure in failures)


def test_an_old_worker_is_replaced(
    fragile: WarmBuilder, link_with: Callable[[str], None], kernel: Kernel, target: str
) -> None:
    link_with("exit 1")
    seen = set()
    for seed in range(ROUNDS + 1):
        _result(fragile, fragile.submit(_round(kernel, target, seed=seed)))
        seen.update(fragile.processes())
    assert len(seen) == 2


def test_a_workload_that_tvm_cannot_read_is_an_answer(builder: WarmBuilder, target: str) -> None:
    task = BuildRequest(
        workload='["1", "nonsense"]', target=target, records=(), schedules=1, seed=1
    )
    result = _result(builder, builder.submit(task))
    assert result.error
    assert result.built == ()
    assert builder.idle == 1


_HOLDER = """
import sys, time
from pathlib import Path
from tvm_mnas.compiler.core.linking import find_linker
from tvm_mnas.compiler.tuning.build_workers import WarmBuilder
with WarmBuilder(cores=[int(sys.argv[1])], linker=find_linker(sys.argv[2]), log=Path(sys.argv[3])) as b:
    print(*b.processes(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(
    how: signal.Signals, core: int, target: str, tmp_path: Path
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(core), target, str(tmp_path / "log")],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in holder.stdout.readline().split()]
    assert workers
    holder.send_signal(how)
    holder.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []


_BUILDING = """
import sys, time
from pathlib import Path
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.tuning.build_workers import BuildRequest, WarmBuilder
core, target, log, linker, workload = sys.argv[1:]
with WarmBuilder(cores=[int(core)], linker=Linker((linker,)), log=Path(log), build_deadline_s=600) as b:
    b.submit(BuildRequest(workload=workload, target=target, records=(), schedules=1, seed=1))
    time.sleep(600)
"""


def test_a_build_under_way_ends_with_the_process_that_wanted_it(
    kernel: Kernel, core: int, target: str, tmp_path: Path, script_linker: Callable[[str], Linker]
) -> None:
    (linker,) = script_linker(
        f"echo $PPID > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/pid; exec sleep 600"
    ).command
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _BUILDING,
            str(core),
            target,
            str(tmp_path / "log"),
            linker,
            kernel.workload,
        ],
        cwd=Path(__file__).parents[3],
    )
    try:
        end = time.monotonic() + 90
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        build = psutil.Process(int((tmp_path / "pid").read_text()))
    finally:
        holder.kill()
        holder.wait(timeout=60)
    # By itself it would end long after that.
    _, alive = psutil.wait_procs([build], timeout=60)
    assert alive == []


def test_closing_leaves_no_process_and_no_file(
    core: int, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with WarmBuilder(cores=[core], linker=find_linker(target), log=tmp_path / "log") as opened:
        workers = [psutil.Process(pid) for pid in opened.processes()]
        assert list((tmp_path / "scratch").iterdir())
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_relative_scratch_directory_is_the_callers(
    kernel: Kernel, core: int, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scratch").mkdir()
    with WarmBuilder(
        cores=[core], linker=find_linker(target), log=Path("log"), scratch=Path("scratch")
    ) as opened:
        opened.submit(
            BuildRequest(workload=kernel.workload, target=target, records=(), schedules=1, seed=1)
        )
        results: list[BuildResult] = []
        end = time.monotonic() + 90
        while not results and time.monotonic() < end:
            results = opened.poll(0.1)
        (built,) = results[0].built
        assert built.failure is None
        assert built.path.is_relative_to(tmp_path / "scratch")
        assert built.path.is_file()
    assert list(Path("scratch").iterdir()) == []


def test_a_build_that_fails_on_a_full_disk_is_this_machine_s_fault(
    fragile: WarmBuilder,
    kernel: Kernel,
    target: str,
    link_with: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link_with("exit 1")
    ticket = fragile.submit(_round(kernel, target))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(HostError, match="No space left on device"):
            _result(fragile, ticket)
        with pytest.raises(HostError, match="No space left on device"):
            fragile.submit(_round(kernel, target))
    result = _result(fragile, fragile.submit(_round(kernel, target)))
    assert result.failed
