"""The whole product as its users run it: a search that is interrupted and resumed, its export, the example.

One small search through a real tracker serves all tests here; each looks at another side of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tvm_mnas.compiler.records.formats import HISTORY
from tvm_mnas.evaluation.kernel_times import read_kernels
from tvm_mnas.models.inference import predict
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.training.data.images import FASHION_NORMALIZATION, network_input, read_embedded
from tvm_mnas.training.weights import load_network

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4
SETTINGS = (
    *("--space", str(Path(__file__).with_name("few_kernels.toml"))),
    *("--trials", str(TRIALS), "--batch", "2", "--train-steps", "12", "--final-steps", "20"),
    *("--schedules-per-kernel", "2", "--target-latency", "0.02ms", "--seed", "1"),
)
DEADLINE_S = 280
JITTER_S = 0.5
"""How long after a trial a search is ended at most: in the middle of whatever comes next."""

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Finished:
    """What the interrupted and resumed search left."""

    directory: Path
    records: Path
    output: dict[str, Any]
    interrupted: list[int]
    survivors: list[int]
    listening: set[str]

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def best(self) -> Path:
        return self.run / "best"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tvm_mnas", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=directory,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def _search(directory: Path, *arguments: str) -> dict[str, Any]:
    done = _run(directory, "search", *arguments, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    output: dict[str, Any] = json.loads(done.stdout)
    return output


def _listening(processes: list[psutil.Process]) -> Iterator[str]:
    """Yield the addresses at which these processes can be connected to."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN or not connection.raddr:
                    yield connection.laddr.ip


def _interrupt(
    directory: Path, *arguments: str, trials: int, how: signal.Signals, listening: set[str]
) -> list[int]:
    """Start a search, end it with `how` soon after so many trials; return the processes that it left behind.

    The addresses at which anything of it listens at that moment go to `listening`.

    A resumed search may find as many trials finished as it is to be ended after: it has begun its own work
    once it has workers.
    """
    process = subprocess.Popen(
        _command("search", *arguments),
        cwd=directory,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + DEADLINE_S
        while len(_finished_numbers(directory / "run")) < trials:
            assert process.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < end, f"it never finished {trials} trials"
            time.sleep(0.1)
        while not psutil.Process(process.pid).children():
            assert process.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < end, "it never started a worker"
            time.sleep(0.1)
        time.sleep(random.uniform(0.0, JITTER_S))
        children = psutil.Process(process.pid).children(recursive=True)
        listening.update(_listening([psutil.Process(process.pid), *children]))
        assert process.poll() is None, "it ended before it was interrupted"
        process.send_signal(how)
        _, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    if how is signal.SIGKILL:
        assert process.returncode == -how
    else:
        assert process.returncode == 130, messages
        assert messages.splitlines()[-1] == (
            "tvm-mnas: error: interrupted, and what was finished is saved; "
            "`tvm-mnas search --resume run` goes on with it"
        )
    _, alive = psutil.wait_procs(children, timeout=10)
    return [child.pid for child in alive if child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    directory = tmp_path_factory.mktemp("search")
    start = (*SETTINGS, "--run", "run", "--records", "records")
    resume = ("--resume", "run")
    survivors: list[int] = []
    interrupted: list[int] = []
    listening: set[str] = set()
    for arguments, trials, how in (
        (start, 1, signal.SIGKILL),
        (resume, 2, signal.SIGTERM),
    ):
        survivors += _interrupt(directory, *arguments, trials=trials, how=how, listening=listening)
        interrupted.append(len(_finished_numbers(directory / "run")))
    # From another directory: the run knows where its records and its space are.
    elsewhere = directory / "else where"
    elsewhere.mkdir()
    output = _search(elsewhere, "--resume", "../run")
    assert list(elsewhere.iterdir()) == []
    return Finished(directory, directory / "records", output, interrupted, survivors, listening)


def _finished_numbers(run: Path) -> list[int]:
    """Return the trials that a run has finished, which may not have begun."""
    if not (run / "config.toml").is_file():
        return []
    return [record.number for record in RunDirectory.open(run).finished_trials()]


def test_an_interrupted_search_ends_with_exactly_the_trials_asked_for(finished: Finished) -> None:
    assert finished.output["trials"] == TRIALS
    assert _finished_numbers(finished.run) == list(range(TRIALS))
    assert all(1 <= trials < TRIALS for trials in finished.interrupted), "not in the middle"
    assert finished.interrupted == sorted(finished.interrupted), "a finished trial was lost"
    assert finished.survivors == []


def test_nothing_of_a_search_can_be_reached_from_another_machine(finished: Finished) -> None:
    """Whoever reaches a device's server can run code: tracker and server listen on loopback."""
    assert finished.listening == {"127.0.0.1"}


def test_every_candidate_was_trained_tuned_and_measured(finished: Finished) -> None:
    for record in RunDirectory.open(finished.run).finished_trials():
        evaluation = record.evaluation
        assert evaluation.failure is None
        assert evaluation.accuracy is not None
        assert evaluation.latency is not None
        assert evaluation.accuracy.steps == 12
        assert evaluation.accuracy.split == "validation"
        assert evaluation.latency.method == "rpc time_evaluator"
        assert evaluation.latency.coverage.tuned_kernels == evaluation.effort.kernels > 10
        assert evaluation.latency.coverage.schedules >= evaluation.effort.kernels
        assert len(evaluation.latency.samples_ms) >= 10


@pytest.mark.slow
def test_finalists_were_timed_again_side_by_side(finished: Finished) -> None:
    records = RunDirectory.open(finished.run).finished_trials()
    again = [r for r in records if r.first_latency is not None and r.repeats is None]
    assert len(again) >= 2
    assert finished.output["best_trial"] in [record.number for record in again]
    for record in again:
        assert record.evaluation.latency is not None and record.first_latency is not None
        assert record.evaluation.latency.measured_at >= record.first_latency.measured_at
        assert record.evaluation.latency.samples_ms != record.first_latency.samples_ms


def test_resuming_a_finished_search_changes_nothing(finished: Finished) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.best.iterdir()}
    again = _search(finished.directory, "--resume", "run")
    assert again["best_trial"] == finished.output["best_trial"]
    assert {path.name: path.stat().st_mtime_ns for path in finished.best.iterdir()} == before


def test_the_export_is_whole_and_says_how_it_was_measured(finished: Finished) -> None:
    names = {path.name for path in finished.best.iterdir()}
    assert names == {
        "net.so",
        "weights.safetensors",
        "net.onnx",
        "architecture.json",
        "records",
        "kernels.json",
        "manifest.json",
    }
    kernels = read_kernels(finished.best / "kernels.json")
    assert all(kernel.untuned_us and kernel.untuned_us > 0 for kernel in kernels)
    assert any(kernel.limit_us for kernel in kernels)
    manifest = json.loads((finished.best / "manifest.json").read_text())
    assert manifest["latency"]["device_key"] == "local"
    assert manifest["latency"]["fingerprint"]
    assert manifest["accuracy"]["test"]["split"] == "test"
    assert 0 <= manifest["agreement"]["difference"] < 1e-4
    assert manifest["agreement"]["judge"].startswith("torch ")
    assert manifest["versions"]["apache-tvm"].startswith("0.27")
    assert manifest["origin"]["trial"] == finished.output["best_trial"]


def test_the_example_classifies_as_torch_does_with_the_stated_accuracy_and_without_torch(
    finished: Finished, tmp_path: Path
) -> None:
    output = tmp_path / "logits.npy"
    script = (
        "import runpy, sys, numpy; from pathlib import Path; best, output = sys.argv[1:];"
        "sys.argv = ['classify.py', best];"
        f"names = runpy.run_path({str(ROOT / 'examples' / 'classify.py')!r}, run_name='__main__');"
        "from tvm_mnas.training.data.images import read_embedded;"
        "_, logits = names['load'](Path(best));"
        "numpy.save(output, logits(read_embedded()[1].pixels[::100]));"
        "print('torch', sys.modules.get('torch'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(finished.best), str(output)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    accuracy, stated = float(words[1]), float(words[words.index("manifest") + 1])
    assert abs(accuracy - stated) <= 0.005
    assert accuracy > 0.2
    assert words[-2:] == ["torch", "None"]

    logits = np.load(output)
    images = network_input(read_embedded()[1].pixels[::100], 32, FASHION_NORMALIZATION)
    expected = predict(load_network(finished.best / "weights.safetensors")[1], images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
def test_a_second_search_with_the_records_there_tunes_nothing_again(finished: Finished) -> None:
    output = _search(
        finished.directory, *SETTINGS, "--run", "second", "--records", "records", "--trials", "2"
    )
    assert output["candidates"] == 2
    assert output["kernels_tuned"] == 0
    assert output["schedules_measured"] == 0


def test_a_run_without_its_records_says_so_and_tunes_nothing(finished: Finished) -> None:
    moved = finished.directory / "moved"
    shutil.copytree(finished.run, moved)
    config = (moved / "config.toml").read_text()
    (moved / "config.toml").write_text(config.replace(str(finished.records), "tuning_logs"))
    (moved / "best" / "manifest.json").unlink()
    for command in (("search", "--resume", "moved"), ("export", "moved", "-o", "out2")):
        done = _run(finished.directory, *command)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"tvm-mnas: error: cannot find the tuning records of moved: tuning_logs is no directory below "
            f"{finished.directory}; put them back, or say where they are: "
            f"`tvm-mnas search --resume moved --records DIR`"
        )
    assert not (finished.directory / "tuning_logs").exists()
    (finished.directory / "a file").touch()
    for place in ("a file", "a file/below"):
        done = _run(finished.directory, "search", "--resume", "moved", "--records", place)
        assert done.returncode == 1
        assert done.stderr.startswith("tvm-mnas: error: ")
        assert "--records" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_trial_can_be_exported_later(finished: Finished) -> None:
    done = _run(
        finished.directory, "export", "run", "--trial", "0", "-o", "out", "--steps", "12", "--json"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["origin"]["trial"] == 0
    assert (finished.directory / "out" / "net.so").is_file()


def test_bench_shows_a_network_and_its_kernels_and_tunes_none_again(finished: Finished) -> None:
    (history,) = finished.records.glob(f"*/{HISTORY}")
    before = history.read_bytes()
    done = _run(
        finished.directory,
        *("bench", "run:0", "--records", "records", "--schedules-per-kernel", "2", "--json"),
        "--untuned",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert history.read_bytes() == before
    result = json.loads(done.stdout)
    assert 0 <= result["agreement"]["difference"] < 1e-4
    assert sum(row["share_percent"] for row in result["kernels"]) == pytest.approx(100)
    assert all(row["schedules"] >= 1 for row in result["kernels"])
    assert result["peak"]["gflops"] > 0
    # How large these are on this machine: tests/workflows/test_bench.py.
    assert all(row["limit_percent"] > 0 and row["speed_up"] > 0 for row in result["kernels"])
