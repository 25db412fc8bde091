"""From the last trial to who is retrained and named: the best candidates' latencies, made to compare.

Candidates that were measured while the device had another speed are measured again before any is chosen, and the
finalists are timed in turn in one session. The newer latency is kept in the study beside the trial's first, from which
the controller learned.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tvm_mnas.errors import CandidateError
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.search.contenders import at_level, contenders
from tvm_mnas.search.run import RunDirectory, TrialRecord

if TYPE_CHECKING:
    import optuna

    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.space.candidate import Candidate

MOST_AGAIN = 2
"""How often a candidate is measured again: a device whose speed changes with every minute has no level."""
FINAL_ROUNDS = 3
"""How often each finalist is timed; the median counts."""


def settle_latencies(
    run: RunDirectory, study: optuna.Study, pipeline: CandidatePipeline
) -> tuple[TrialRecord, ...]:
    """Measure again who could be the best and was measured at another speed of the device; return the run's trials.

    It goes on until nobody is left, since whom a new latency moves to the front may be of another speed too. A
    candidate that cannot be measured again keeps the latency that it has.

    Raises:
        DeviceError: if the device stays lost; what was measured is kept.
        RunError: if the study cannot be read.
    """
    observer = pipeline.observer
    measured: Counter[int] = Counter()
    while True:
        records = run.trials(study)
        levels_ms = pipeline.toolchain.farm.reference_levels_ms()
        away = [
            record
            for record in contenders(
                records, reward=run.reward, levels_ms=levels_ms, finalists=run.config.finalists
            )
            if record.evaluation.latency and not at_level(record.evaluation.latency, levels_ms)
        ]
        due = [record for record in away if measured[record.number] < MOST_AGAIN]
        if away and not due:
            observer.note(
                f"the device's speed keeps changing: {len(away)} of the best candidates could not be measured at one "
                "level, and their order is rough"
            )
        if not due:
            return records
        observer.note(
            f"{len(due)} of the best candidates were measured while the device had another speed: again"
        )
        for done, record in enumerate(due):
            observer.stage("measuring again", done, len(due))
            measured[record.number] += 1
            try:
                with _compiled(pipeline, record.evaluation.architecture) as artifact:
                    latency = pipeline.toolchain.measure(artifact)
            except CandidateError as error:
                measured[record.number] = MOST_AGAIN
                observer.note(f"trial {record.number} keeps its latency: {error}")
            else:
                run.keep_latency(study, record.number, latency)


def time_finalists(
    run: RunDirectory,
    study: optuna.Study,
    pipeline: CandidatePipeline,
    finalists: Sequence[TrialRecord],
) -> list[TrialRecord]:
    """Return the finalists with latencies of one session, in which they were timed in turn.

    One that cannot be timed is left out, which is noted. A single finalist has nobody to be compared with, and an
    emulator's times rank nothing: then nothing is done.

    Raises:
        DeviceError: if the device stays lost.
        RunError: if the study cannot be read.
    """
    if len(finalists) < 2 or pipeline.toolchain.profile.emulated:
        return list(finalists)
    observer = pipeline.observer
    ready: list[tuple[TrialRecord, CompiledArtifact]] = []
    with contextlib.ExitStack() as stack:
        for record in finalists:
            try:
                compiled = _compiled(pipeline, record.evaluation.architecture)
                ready.append((record, stack.enter_context(compiled)))
            except CandidateError as error:
                observer.note(f"finalist of trial {record.number} failed: {error}")
        found = pipeline.toolchain.measure_in_turn(
            [artifact for _, artifact in ready],
            rounds=FINAL_ROUNDS,
            on_progress=lambda done, total: observer.stage("finalists side by side", done, total),
        )
    timed: set[int] = set()
    for (record, _), latencies in zip(ready, found, strict=True):
        if isinstance(latencies, CandidateError):
            observer.note(f"finalist of trial {record.number} failed: {latencies}")
            continue
        middle = sorted(latencies, key=lambda latency: latency.latency_ms)[len(latencies) // 2]
        run.keep_latency(study, record.number, middle)
        timed.add(record.number)
    # In the order that they came in: the caller ranks them.
    anew = {record.number: record for record in run.trials(study)}
    return [anew[record.number] for record in finalists if record.number in timed]


@contextlib.contextmanager
def _compiled(pipeline: CandidatePipeline, candidate: Candidate) -> Iterator[CompiledArtifact]:
    artifact = pipeline.compile(candidate)
    try:
        yield artifact
    finally:
        artifact.path.unlink(missing_ok=True)
