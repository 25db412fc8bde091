"""A table of evaluations: architectures of a space, often all, trained with several budgets and seeds, and timed.

    table.entry(architecture).accuracies[240]        two accuracies after 240 steps, one of each seed
    table.entry(architecture).tuned                  two latencies, one of each pass over the whole space
    table.latency_ms(architecture)                   their mean, each corrected by the device's speed at its moment

A correction: the device's reference kernel is timed right after each latency. Where it took a tenth longer than in the
median of the table, so did, most likely, the network:

    corrected_ms = latency_ms * (median of all reference_ms) / reference_ms

What is measured stays in the table as it was; corrections are made on reading.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.evaluation.ranking import spearman
from tvm_mnas.evaluation.tables.manifest import Spread, TableManifest
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.training.accuracy import Accuracy

SEEDS = 2
"""How often each architecture is trained with each budget."""
PASSES = 2
"""How often each architecture is timed, with all others in between."""

LatencyKind = Literal["tuned", "untuned"]
KINDS: tuple[LatencyKind, ...] = ("tuned", "untuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """One kernel of the space: what its best schedule took by the records, and what TVM's own takes, in microseconds.

    `untuned_us` is None where TVM's own does not run. `flops` and `moved_bytes` are of one call.
    """

    key: str
    name: str
    flops: int
    moved_bytes: int
    tuned_us: float
    untuned_us: float | None

    def __post_init__(self) -> None:
        if not self.tuned_us > 0 or not (self.untuned_us is None or self.untuned_us > 0):
            raise RunError(
                f"a kernel's times are above 0 us, not {self.tuned_us} and {self.untuned_us}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """What is known of one architecture.

    `accuracies` has a tuple of one accuracy for each seed, by the steps of the training. `tuned` and `untuned` are its
    latencies compiled from records and as TVM builds it by itself, one of each pass. `calls` says how often one run
    calls which kernel, by its key. `parameters` and `mult_adds` are counted.
    """

    notation: str
    accuracies: Mapping[int, tuple[Accuracy, ...]]
    tuned: tuple[Latency, ...]
    untuned: tuple[Latency, ...]
    calls: Mapping[str, int]
    parameters: int
    mult_adds: int

    def latencies(self, kind: LatencyKind) -> tuple[Latency, ...]:
        """Return its latencies of a kind, one of each pass."""
        return self.tuned if kind == "tuned" else self.untuned


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """What the device's reference kernel usually took while a table was timed, in ms; None where it was not timed."""

    reference_ms: float | None

    @classmethod
    def of(cls, entries: Sequence[TableEntry]) -> DeviceSpeed:
        """Return the median over every latency of `entries`."""
        times_ms = [
            latency.reference_ms
            for entry in entries
            for latency in (*entry.tuned, *entry.untuned)
            if latency.reference_ms is not None
        ]
        return cls(statistics.median(times_ms) if times_ms else None)

    def corrected_ms(self, latency: Latency) -> float:
        """Return `latency` at the device's usual speed; as it is, where that is not known."""
        if latency.reference_ms is None or self.reference_ms is None:
            return latency.latency_ms
        return latency.latency_ms * self.reference_ms / latency.reference_ms


@dataclass(frozen=True)
class EvaluationTable:
    """A whole space evaluated. Made by `files.read_table`, which checks that it is whole."""

    manifest: TableManifest
    entries: tuple[TableEntry, ...]
    kernels: Mapping[str, KernelTime]

    @cached_property
    def _by_notation(self) -> dict[str, TableEntry]:
        return {entry.notation: entry for entry in self.entries}

    @cached_property
    def speed(self) -> DeviceSpeed:
        """What latencies are corrected by."""
        return DeviceSpeed.of(self.entries)

    @property
    def name(self) -> str:
        """The table's."""
        return self.manifest.name

    @property
    def budgets(self) -> tuple[int, ...]:
        """The steps of its trainings, the fewest first."""
        return self.manifest.steps

    @cached_property
    def space(self) -> SearchSpace:
        """The space that it is of, by its name.

        Raises:
            SpaceError: if no such space ships.
            ConfigError: if it is another by now.
        """
        space = load_space(self.manifest.space)
        if space.fingerprint != self.manifest.space_fingerprint:
            raise ConfigError(
                f"the table {self.name} is of the space {space.name} as it was "
                f"({self.manifest.space_fingerprint}), and now it is {space.fingerprint}; build the table again"
            )
        return space

    def entry(self, candidate: Candidate) -> TableEntry:
        """Return what is known of `candidate`.

        Raises:
            ConfigError: if it is not in the table.
        """
        entry = self._by_notation.get(candidate.notation)
        if entry is None:
            raise ConfigError(
                f"the table {self.name} has {len(self.entries):,} architectures of the space {self.manifest.space}, "
                f"and {candidate.notation} is none of them; `tvm-mnas table show {self.name}` says what it is of"
            )
        return entry

    def accuracy(self, candidate: Candidate, *, steps: int | None = None) -> float:
        """Return the mean accuracy over the seeds after `steps`, by default the most, as a share in 0..1."""
        budget = self.budgets[-1] if steps is None else steps
        return statistics.fmean(one.top1 for one in self.entry(candidate).accuracies[budget])

    def latency_ms(self, candidate: Candidate, *, kind: LatencyKind = "tuned") -> float:
        """Return the mean of the corrected latencies over the passes."""
        return self.entry_ms(self.entry(candidate), kind=kind)

    def entry_ms(self, entry: TableEntry, *, kind: LatencyKind = "tuned") -> float:
        """Return the mean of an entry's corrected latencies over the passes."""
        return statistics.fmean(self.speed.corrected_ms(one) for one in entry.latencies(kind))

    def kernels_us(self, entry: TableEntry) -> float:
        """Return the sum of its kernels' times by the records, in microseconds."""
        return sum(calls * self.kernels[key].tuned_us for key, calls in entry.calls.items())

    def moved_bytes(self, entry: TableEntry) -> int:
        """Return the bytes that all calls of its kernels read and write."""
        return sum(calls * self.kernels[key].moved_bytes for key, calls in entry.calls.items())


def accuracy_spread(entries: Sequence[TableEntry], steps: int) -> Spread:
    """Return spread and noise of the accuracies after `steps`, in percentage points."""
    return spread_of_pairs(
        [tuple(100.0 * one.top1 for one in entry.accuracies[steps]) for entry in entries]
    )


def latency_spread(entries: Sequence[TableEntry], kind: LatencyKind) -> Spread:
    """Return spread and noise of the corrected latencies of a kind, in percent of their mean."""
    speed = DeviceSpeed.of(entries)
    pairs = [tuple(speed.corrected_ms(one) for one in entry.latencies(kind)) for entry in entries]
    mean = statistics.fmean(statistics.fmean(pair) for pair in pairs)
    return spread_of_pairs([tuple(100.0 * one / mean for one in pair) for pair in pairs])


def spread_of_pairs(pairs: Sequence[Sequence[float]]) -> Spread:
    """Return what pairs of measurements of the same things say of their spread, their noise and their order.

    `spread` is the standard deviation of the things' means, `noise` of one measurement:

        noise^2 = mean of (first - second)^2 / 2
    """
    means = [statistics.fmean(pair) for pair in pairs]
    noise = statistics.fmean((one - two) ** 2 / 2 for one, two in pairs) ** 0.5
    return Spread(
        mean=statistics.fmean(means),
        spread=statistics.stdev(means),
        noise=noise,
        between=spearman([pair[0] for pair in pairs], [pair[1] for pair in pairs]) or 0.0,
    )
