"""Each process of a search killed at random moments, again and again: nothing is lost, and nobody waits long.

Run with `-s` it prints the table of docs/benchmarks.md: what was killed, how often, what was lost, the longest wait.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tvm_mnas.search.run import RunDirectory, TrialRecord

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("TVM_MNAS_KILLS", "20"))
BATCH = 4
SETTINGS = (
    *("--space", "quickstart", "--batch", str(BATCH), "--train-steps", "2", "--final-steps", "2"),
    *("--schedules-per-kernel", "2", "--target-latency", "0.05ms", "--finalists", "1"),
)
LONGEST_PAUSE_S = 4.0
WAIT_S = 240.0
"""What takes this long will never come."""
VICTIMS = {
    "driver": "-m tvm_mnas search",
    "training": "multiprocessing.spawn",
    "build worker": "tvm_mnas.compiler.tuning.worker_main",
    "device worker": "tvm_mnas.devices.farm.worker",
    "device server": "local_main server",
    "tracker": "local_main tracker",
}
"""What its command line holds, by the name of the process."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@dataclass
class Siege:
    """A search that is resumed for as long as not enough was killed, and all that was seen of it."""

    directory: Path
    seed: int
    trials: int = BATCH
    kills: int = 0
    longest_wait_s: float = 0.0
    finished: dict[int, TrialRecord] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self) -> psutil.Process:
        """Begin the search or go on with it, for one batch more where it was done."""
        options = ["--resume", "run", "--trials", str(self.trials)]
        if not (self.run / "config.toml").is_file():
            options = [*SETTINGS, "--trials", str(self.trials), "--seed", str(self.seed)]
            options += ["--run", "run", "--records", "records"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tvm_mnas", "search", *options],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        return psutil.Process(self._process.pid)

    def ended(self) -> bool:
        """Whether the search is over: a clean end, which nothing but its own end may be."""
        assert self._process is not None
        status = self._process.poll()
        assert status in (None, 0), self.log.read_text()[-2000:]
        return status == 0

    def look(self) -> int:
        """Read what is finished and note what is no longer as it was; return how many trials are."""
        records: tuple[TrialRecord, ...] = ()
        if (self.run / "config.toml").is_file():
            records = RunDirectory.open(self.run).finished_trials()
        now = {record.number: record for record in records}
        self.lost += [n for n, record in self.finished.items() if told(now.get(n)) != told(record)]
        self.finished = now
        return len(now)

    def end(self) -> int:
        """Wait for the end of the search and return its exit status."""
        assert self._process is not None
        return self._process.wait(WAIT_S)


def told(record: TrialRecord | None) -> object:
    """What a finished trial was told with: its latency may be measured again."""
    if record is None:
        return None
    first = record.first_latency or record.evaluation.latency
    return record.evaluation.architecture.id, record.evaluation.accuracy, first


@pytest.fixture
def siege(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Siege]:
    made = Siege(tmp_path, seed=sum(map(ord, request.node.name)))
    try:
        yield made
    finally:
        for process in psutil.process_iter(["cmdline", "cwd"]):
            with contextlib.suppress(psutil.Error):
                if process.info["cwd"] == str(tmp_path) and "tvm_mnas" in str(
                    process.info["cmdline"]
                ):
                    process.kill()


def victims_of(driver: psutil.Process, victim: str) -> list[psutil.Process]:
    if victim == "driver":
        return [driver]
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        for process in driver.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if VICTIMS[victim] in " ".join(process.cmdline()):
                    found.append(process)
    return found


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_search_whose_process_is_killed_ends_with_exactly_the_trials_asked_for(
    victim: str, siege: Siege
) -> None:
    rng = random.Random(siege.seed)
    driver = siege.start()
    family: dict[int, psutil.Process] = {}
    while siege.kills < KILLS:
        pause = time.monotonic() + rng.uniform(0.2, LONGEST_PAUSE_S)
        while time.monotonic() < pause and not siege.ended():
            time.sleep(0.02)
        if siege.ended():
            assert siege.look() == siege.trials
            siege.trials += BATCH
            driver = siege.start()
            continue
        with contextlib.suppress(psutil.Error):
            family |= {process.pid: process for process in driver.children(recursive=True)}
        targets = victims_of(driver, victim)
        if not targets:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(targets).send_signal(signal.SIGKILL)
            siege.kills += 1
        if victim == "driver":
            siege.end()
            siege.look()
            driver = siege.start()
        # Until something more is finished, or the search is: that is what the kill cost at most. A training that
        # dies four times is its candidate's fault, as where the system ends it for its memory.
        if victim == "training" or siege.kills % 4 == 0 or siege.kills == KILLS:
            wait_for_progress(siege)
    end = time.monotonic() + WAIT_S
    while not siege.ended():
        assert time.monotonic() < end, siege.log.read_text()[-2000:]
        with contextlib.suppress(psutil.Error):
            family |= {process.pid: process for process in driver.children(recursive=True)}
        time.sleep(0.1)
    assert siege.look() == siege.trials
    assert sorted(siege.finished) == list(range(siege.trials))
    assert siege.lost == []
    blamed = [record.evaluation.failure for record in siege.finished.values()]
    assert [failure for failure in blamed if failure is not None] == []
    assert (siege.run / "best" / "manifest.json").is_file()
    _, alive = psutil.wait_procs(list(family.values()), timeout=10)
    assert [one.pid for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    print(
        f"\n| {victim} | {siege.kills} | {siege.trials} trials, none lost, none blamed | "
        f"{siege.longest_wait_s:.0f} s |"
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_interrupted_says_how_it_goes_on_and_leaves_nobody_behind(
    how: signal.Signals, siege: Siege
) -> None:
    """At any step: while Python starts, while workers do, in training, tuning, measuring, exporting."""
    rng = random.Random(siege.seed)
    siege.trials = 2 * BATCH
    driver = siege.start()
    while siege.kills < KILLS:
        pause = time.monotonic() + rng.uniform(1.0, 4 * LONGEST_PAUSE_S)
        while time.monotonic() < pause and not siege.ended():
            time.sleep(0.02)
        if siege.ended():
            siege.trials += BATCH
            driver = siege.start()
            continue
        try:
            family = driver.children(recursive=True)
        except psutil.Error:
            continue
        written = siege.log.stat().st_size
        driver.send_signal(how)
        began = time.monotonic()
        status = siege.end()
        if status == 0:
            continue  # it was just done
        assert status == 130, siege.log.read_text()[-2000:]
        last = siege.log.read_text()[written:].splitlines()[-1]
        assert last == (
            "tvm-mnas: error: interrupted, and what was finished is saved; "
            "`tvm-mnas search --resume run` goes on with it"
        )
        _, alive = psutil.wait_procs(family, timeout=10)
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
        siege.longest_wait_s = max(siege.longest_wait_s, time.monotonic() - began)
        siege.kills += 1
        siege.look()
        driver = siege.start()
    assert siege.end() == 0
    assert siege.look() == siege.trials
    assert siege.lost == []
    print(
        f"\n| {how.name} | {siege.kills} | {siege.trials} trials, none lost | "
        f"{siege.longest_wait_s:.1f} s until all processes were gone |"
    )


def wait_for_progress(siege: Siege) -> None:
    """Wait until one more trial is finished, or the search is, and remember for how long."""
    began = time.monotonic()
    before = siege.look()
    while siege.look() == before and not siege.ended():
        assert time.monotonic() - began < WAIT_S, siege.log.read_text()[-2000:]
        time.sleep(0.2)
    siege.longest_wait_s = max(siege.longest_wait_s, time.monotonic() - began)
