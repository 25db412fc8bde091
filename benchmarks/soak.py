"""What a search of many trials costs beside its trainings and measurements: time and memory a candidate.

    python benchmarks/soak.py                                        # 20,000 trials in a journal
    python benchmarks/soak.py --storage postgresql://me@host/studies # and in a database
    python benchmarks/soak.py --trials 2000 --algorithm evolution

The loop, the sampler and the study are real; accuracy and latency are formulas, which take no time to speak of. Then
the run is opened anew, as `--resume` does, and its report is written.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil

from tvm_mnas.config import SearchConfig
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.search.session import sampler_of
from tvm_mnas.space.files import load_space
from tvm_mnas.testing import SyntheticCandidates

MIB = 2**20


@dataclass
class Watch:
    """Takes the time of each trial, and the memory now and then."""

    every: int
    ended_s: list[float] = field(default_factory=lambda: [time.perf_counter()])
    memory_mib: dict[int, float] = field(default_factory=dict)

    def look(self, record: TrialRecord) -> None:
        """Take note of a finished trial."""
        self.ended_s.append(time.perf_counter())
        if (len(self.ended_s) - 1) % self.every == 0:
            self.memory_mib[len(self.ended_s) - 1] = memory_mib()

    def overhead_ms(self, last: int | None = None) -> float:
        """Return the mean time of a trial in ms, of all or of the `last`: a batch's update falls on one of them."""
        ended = self.ended_s if last is None else self.ended_s[-last - 1 :]
        return 1e3 * (ended[-1] - ended[0]) / (len(ended) - 1)

    def median_ms(self) -> float:
        """Return the median time of a trial, in ms."""
        return 1e3 * statistics.median(
            after - before for before, after in zip(self.ended_s, self.ended_s[1:], strict=False)
        )


def memory_mib() -> float:
    """Return the memory of this process."""
    return float(psutil.Process().memory_info().rss) / MIB


def soak(
    path: Path, *, trials: int, algorithm: str, batch: int, lag: int, url: str, every: int = 1000
) -> dict[str, float]:
    """Search, open the run anew and write its report; return what that took."""
    from tvm_mnas.report.html import write_report

    config = SearchConfig(
        space="mnasnet",
        target_latency_ms=80.0,
        algorithm=algorithm,
        trials=trials,
        batch=batch,
        lag=lag,
        storage=url,
    )
    watch = Watch(every=every)
    go_on(RunDirectory.create(path, config), watch)
    began = time.perf_counter()
    again = RunDirectory.open(path).changed({"trials": trials + batch})
    resumed = Watch(every=every)
    go_on(again, resumed, stop_after=1)
    resume_s = time.perf_counter() - began
    began = time.perf_counter()
    run = RunDirectory.open(path)
    write_report(run, run.finished_trials())
    report_s = time.perf_counter() - began
    first = min(watch.memory_mib)
    return {
        "overhead a trial, mean (ms)": watch.overhead_ms(),
        "overhead a trial, median (ms)": watch.median_ms(),
        f"overhead of the last {every:,}, mean (ms)": watch.overhead_ms(every),
        f"memory after {first:,} (MiB)": watch.memory_mib[first],
        "memory at the end (MiB)": watch.memory_mib[max(watch.memory_mib)],
        "time to resume (s)": resume_s,
        "time to report (s)": report_s,
    }


class _Enough(BaseException):
    """The resumed run has shown that it goes on."""


def go_on(run: RunDirectory, watch: Watch, *, stop_after: int | None = None) -> None:
    """Bring the run to its trials, or end after so many."""
    space = load_space("mnasnet")
    left = stop_after

    def look(record: TrialRecord) -> None:
        nonlocal left
        watch.look(record)
        if left is not None:
            left -= 1
            if left == 0:
                raise _Enough

    with run.lock():
        study = run.study(sampler_of(run, space))
        try:
            run_trials(
                run, space, study, SyntheticCandidates(space, failure_rate=0.05), on_trial=look
            )
        except _Enough:
            return


def main() -> None:
    """Print a table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lag", type=int, default=1)
    parser.add_argument("--storage", default="", help="a database, beside the journal")
    arguments = parser.parse_args()
    for name, url in (("journal", ""), ("database", arguments.storage)):
        if name == "database" and not url:
            continue
        with tempfile.TemporaryDirectory() as directory:
            found = soak(
                Path(directory) / "run",
                trials=arguments.trials,
                algorithm=arguments.algorithm,
                batch=arguments.batch,
                lag=arguments.lag,
                url=url,
            )
        print(
            f"| {arguments.trials:,} trials, {arguments.algorithm}, batches of {arguments.batch} | {name} |"
        )
        print("| --- | ---: |")
        for what, value in found.items():
            print(f"| {what} | {value:.1f} |", flush=True)


if __name__ == "__main__":
    main()
