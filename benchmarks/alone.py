"""A few candidates tuned each by itself: how fast that makes them, and what stock MetaSchedule takes for it.

No script of its own: `candidates.py` runs this after its candidates. Tuned alone by ours, a candidate begins with an
empty store and another seed; then its library and the one from the shared records are timed in turn. Stock tunes a
sample of the same candidates' kernels, and its time for a whole candidate is extrapolated from that sample:

    seconds for a candidate = its process's start + mean seconds of a sampled kernel x mean kernels of a candidate
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stock_metaschedule import Side, run_stock

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
    from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions
    from tvm_mnas.space.architecture import Architecture

WITHIN = 0.05
"""How much longer a network from shared records may take than one that was tuned alone."""

OpenToolchain = Callable[..., AbstractContextManager["Toolchain"]]
"""`open_toolchain` of a profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """One candidate tuned alone by ours: what that took, and both networks' latencies, a pair for each round.

    `tuned` is less than `kernels` where its own store had records already: then `tuning_s` is not that of an
    empty store.
    """

    number: int
    architecture: str
    kernels: int = 0
    tuned: int = 0
    schedules: int = 0
    tuning_s: float = 0.0
    shared_ms: tuple[float, ...] = ()
    alone_ms: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def ratio(self) -> float | None:
        """Median latency from the shared records by the median tuned alone; None if they were not timed."""
        if not self.shared_ms or not self.alone_ms:
            return None
        return statistics.median(self.shared_ms) / statistics.median(self.alone_ms)

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate": self.number,
            "architecture": self.architecture,
            "kernels": self.kernels,
            "tuned": self.tuned,
            "schedules": self.schedules,
            "tuning_s": self.tuning_s,
            "shared_ms": list(self.shared_ms),
            "alone_ms": list(self.alone_ms),
            "ratio": self.ratio,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StockSample:
    """What stock MetaSchedule did with a sample of the `distinct` kernels of the candidates tuned alone.

    `kernels` are the sampled ones' names, `networks` how many kernels each of the candidates has, `start_s` the
    seconds before the first kernel's turn, `kernels_s` those of all sampled kernels, `ran` how many of the
    sampled kernels have a schedule that ran.
    """

    kernels: tuple[str, ...]
    distinct: int
    networks: tuple[int, ...]
    schedules: int
    start_s: float
    kernels_s: float
    ran: int

    @property
    def per_kernel_s(self) -> float:
        """Mean seconds of a sampled kernel, without the process's start."""
        return self.kernels_s / len(self.kernels)

    @property
    def per_candidate_s(self) -> float:
        """Seconds to tune one candidate alone, extrapolated: no candidate was tuned whole."""
        return self.start_s + self.per_kernel_s * statistics.fmean(self.networks)

    def to_json(self) -> dict[str, Any]:
        return {
            "kernels": list(self.kernels),
            "distinct_kernels": self.distinct,
            "kernels_of_candidates": list(self.networks),
            "schedules": self.schedules,
            "start_s": self.start_s,
            "kernels_s": self.kernels_s,
            "ran": self.ran,
            "per_kernel_s": self.per_kernel_s,
            "extrapolated_per_candidate_s": self.per_candidate_s,
        }


@dataclass
class Peers:
    """Candidates on their way through this module: number in the list -> lowered network, library, result."""

    results: dict[int, Alone] = field(default_factory=dict)
    lowered: dict[int, LoweredNetwork] = field(default_factory=dict)
    artifacts: dict[int, CompiledArtifact] = field(default_factory=dict)


def spread_evenly(items: Sequence[int], count: int) -> list[int]:
    """Return `count` of `items`, the middle of each of as many equal parts; all if there are no more."""
    if count >= len(items):
        return list(items)
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]


def tune_alone(
    architectures: Mapping[int, Architecture],
    open_one: OpenToolchain,
    options: ToolchainOptions,
    *,
    directory: Path,
    say: Callable[[str], None],
) -> Peers:
    """Tune and compile each of `architectures` (number in the list -> one) from a store of its own."""
    from tvm_mnas.errors import CandidateError
    from tvm_mnas.models.network import build_network

    peers = Peers()
    for number, architecture in architectures.items():
        result = Alone(number=number, architecture=architecture.notation)
        own = directory / f"alone-{number}"
        own.mkdir()
        with open_one(
            replace(options, records=options.records / architecture.id), logs=own, scratch=own
        ) as toolchain:
            try:
                network = build_network(architecture).eval()
                lowered = toolchain.lower(network, architecture.image_shape)
                peers.lowered[number] = lowered
                report = toolchain.tune([lowered], on_progress=lambda done, total: None)
                result = replace(
                    result,
                    kernels=len(lowered.kernels),
                    tuned=len(report.kernels),
                    schedules=sum(kernel.schedules for kernel in report.kernels),
                    tuning_s=report.duration_s,
                )
                peers.artifacts[number] = toolchain.compile(lowered, own / "net.so")
            except CandidateError as error:
                result = replace(result, failure=str(error))
        peers.results[number] = result
        say(f"candidate {number} alone: {result.tuned} kernels tuned in {result.tuning_s:.1f} s")
    return peers


def time_both(
    peers: Peers,
    toolchain: Toolchain,
    *,
    directory: Path,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
) -> list[Alone]:
    """Compile each candidate from the shared records too, time both libraries in turn, and return the results."""
    from tvm_mnas.errors import CandidateError

    for number, alone in peers.artifacts.items():
        lowered = peers.lowered[number]
        try:
            shared = toolchain.compile(lowered, directory / f"shared-{number}.so")
            both = {"shared": shared, "alone": alone}
            times_ms = time_in_turn(toolchain, both, rounds=rounds, seed=seed)
        except CandidateError as error:
            peers.results[number] = replace(peers.results[number], failure=str(error))
            continue
        result = replace(
            peers.results[number], shared_ms=times_ms["shared"], alone_ms=times_ms["alone"]
        )
        peers.results[number] = result
        say(f"candidate {number}: from shared records {result.ratio:.3f} times what alone takes")
    return list(peers.results.values())


def time_in_turn(
    toolchain: Toolchain,
    artifacts: Mapping[str, CompiledArtifact],
    *,
    rounds: int,
    seed: int,
) -> dict[str, tuple[float, ...]]:
    """Return the latencies of each artifact in ms, one a round, in an order drawn anew for every round."""
    times_ms: dict[str, list[float]] = {name: [] for name in artifacts}
    generator = random.Random(seed)
    for _ in range(rounds):
        for name in generator.sample(list(artifacts), len(artifacts)):
            times_ms[name].append(toolchain.measure(artifacts[name]).latency_ms)
    return {name: tuple(values) for name, values in times_ms.items()}


def sample_kernels(
    networks: Sequence[LoweredNetwork], *, count: int, seed: int
) -> tuple[list[Kernel], int]:
    """Return `count` of the distinct kernels of `networks`, drawn from `seed`, and how many distinct ones there are."""
    distinct = {kernel.key: kernel for network in networks for kernel in network.kernels}
    kernels = [distinct[key] for key in sorted(distinct)]
    return random.Random(seed).sample(kernels, min(count, len(kernels))), len(kernels)


def sample_stock(
    peers: Peers, target: str, *, count: int, directory: Path, trials: int, seed: int
) -> StockSample | str:
    """Return what stock MetaSchedule does with `count` of the candidates' kernels, or why it does nothing."""
    networks = list(peers.lowered.values())
    if not networks:
        return "no candidate was tuned alone whose kernels could be sampled"
    kernels, distinct = sample_kernels(networks, count=count, seed=seed)
    labels = {f"kernel-{number}": kernel for number, kernel in enumerate(kernels)}
    try:
        side = run_stock(labels, target, directory / "stock", trials=trials, seed=seed)
    except SystemExit as error:
        # Hours of other results are worth printing without this one.
        return str(error)
    return describe_stock(
        side,
        names=[kernel.name for kernel in kernels],
        distinct=distinct,
        networks=[len(network.kernels) for network in networks],
    )


def describe_stock(
    side: Side, *, names: Sequence[str], distinct: int, networks: Sequence[int]
) -> StockSample:
    """Return the sample that `side` is of, its seconds split into the start and the kernels."""
    return StockSample(
        kernels=tuple(names),
        distinct=distinct,
        networks=tuple(networks),
        schedules=side.trials,
        start_s=side.start_s,
        kernels_s=side.duration_s - side.start_s,
        ran=len(side.libraries),
    )


def table(results: Sequence[Alone]) -> str:
    """Return a markdown table: a row per candidate that was tuned alone."""
    lines = [
        "| candidate | kernels tuned alone | seconds | shared records ms | alone ms | shared / alone | rounds |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in results:
        cells = f"| {one.number} | {one.tuned} of {one.kernels} | {one.tuning_s:.1f} | "
        if one.ratio is None:
            lines.append(f"{cells}- | - | - | {one.failure} |")
            continue
        rounds = [a / b for a, b in zip(one.shared_ms, one.alone_ms, strict=True)]
        lines.append(
            f"{cells}{statistics.median(one.shared_ms):.4g} | {statistics.median(one.alone_ms):.4g} "
            f"| {one.ratio:.3f} | {len(rounds)}, {min(rounds):.3f} to {max(rounds):.3f} |"
        )
    return "\n".join(lines)
