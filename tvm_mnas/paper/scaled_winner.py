"""Figure 6 with accuracies of one's own: the winner of a search scaled down, beside a new search at a tighter target.

The paper compares MnasNet scaled by depth multiplier and input size with what a new search finds for 22 ms
("Sensitivity to Model Scaling", arXiv 1807.11626v1, figure 6). Here both sides are trained by the runs' own recipe on
their own data. A front is the best of many draws; so every network is trained once more, with a seed that chose
nothing, and all are timed in turn in one session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import CandidateError, ConfigError
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.report.drawing import LIGHT, add_legend, new_axes, set_label
from tvm_mnas.report.trials import EMULATED, pareto_records
from tvm_mnas.search.session import Session
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.scaling import Scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.devices.core.latency import Latency
    from tvm_mnas.training.accuracy import Accuracy

MULTIPLIERS = (0.35, 0.5, 0.75, 1.0)
"""What the winner is scaled by; 1 is the winner itself."""
ROUNDS = 3
"""How often each network is timed; the median counts."""
_ALIKE = ("data", "recipe", "device", "trainer", "train_steps", "train_epochs", "train_batch")
"""What both runs must have in common, or the two sides would not compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedNetwork:
    """One network of the figure: a scaled winner (its `multiplier`), or one of the new search's front (its `trial`)."""

    notation: str
    multiplier: float | None
    trial: int | None
    accuracy: Accuracy
    latency: Latency

    def __post_init__(self) -> None:
        if (self.multiplier is None) == (self.trial is None):
            raise ConfigError(
                f"{self.notation}: a network of figure 6 is a scaled one or a new search's, and one of both"
            )

    @property
    def label(self) -> str:
        """What it is called."""
        return (
            f"trial {self.trial}" if self.multiplier is None else f"scaled by {self.multiplier:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {
            "accuracy": self.accuracy.to_json(),
            "latency": self.latency.to_dict(),
        }


def scale_or_search(old: Session, new: Session, *, observer: Observer) -> tuple[JudgedNetwork, ...]:
    """Return the winner of `old` scaled by `MULTIPLIERS`, and the front of `new`, all trained and timed anew.

    One that cannot be trained, compiled or timed is left out, which is noted. Hold the lock of `old`.

    Raises:
        ConfigError: if the runs differ in what would keep the two sides from comparing, or `old` has no architecture of
            blocks that could be scaled.
        DeviceError: if the device stays lost.
    """
    entrants = _entrants(old, new)
    with old.pipeline(observer) as pipeline:
        accuracies = dict(pipeline.train_again([architecture for architecture, _, _ in entrants]))
        ready: list[tuple[int, CompiledArtifact]] = []
        try:
            for index, (architecture, _, _) in enumerate(entrants):
                if accuracies.get(index) is None:
                    observer.note(f"{architecture.notation} could not be trained")
                    continue
                try:
                    ready.append((index, pipeline.compile(architecture)))
                except CandidateError as error:
                    observer.note(f"{architecture.notation} could not be compiled: {error}")
            found = pipeline.toolchain.measure_in_turn(
                [artifact for _, artifact in ready],
                rounds=ROUNDS,
                on_progress=lambda done, total: observer.stage("timed in turn", done, total),
            )
        finally:
            for _, artifact in ready:
                artifact.path.unlink(missing_ok=True)
    judged: list[JudgedNetwork] = []
    for (index, _), latencies in zip(ready, found, strict=True):
        architecture, multiplier, trial = entrants[index]
        accuracy = accuracies[index]
        if isinstance(latencies, CandidateError) or accuracy is None:
            observer.note(f"{architecture.notation} could not be timed: {latencies}")
            continue
        middle = sorted(latencies, key=lambda latency: latency.latency_ms)[len(latencies) // 2]
        judged.append(
            JudgedNetwork(
                notation=architecture.notation,
                multiplier=multiplier,
                trial=trial,
                accuracy=accuracy,
                latency=middle,
            )
        )
    return tuple(judged)


def scaled_winner_figure(networks: Sequence[JudgedNetwork], *, target_ms: float) -> Figure:
    """Return figure 6: accuracy over latency of the scaled winner and of the new search's front."""
    emulated = any(one.latency.emulated for one in networks)
    samples = {f"{one.accuracy.samples:,} {one.accuracy.split}" for one in networks}
    figure, axes = new_axes(
        "Scaling a winner, or searching anew" + (f" ({EMULATED})" if emulated else ""),
        [
            "Every network trained once more by the runs' recipe, with a seed that chose nothing; "
            f"accuracy on {' and '.join(sorted(samples))} images, with its standard error.",
            "All timed in turn in one session.",
        ],
        LIGHT,
    )
    for of_scaling, label, colour, mark in (
        (True, "winner, scaled", LIGHT.candidate, "o"),
        (False, "new search", LIGHT.front, "*"),
    ):
        mine = sorted(
            (one for one in networks if (one.multiplier is not None) is of_scaling),
            key=lambda one: one.latency.latency_ms,
        )
        if mine:
            axes.errorbar(
                [one.latency.latency_ms for one in mine],
                [100 * one.accuracy.top1 for one in mine],
                yerr=[100 * one.accuracy.standard_error for one in mine],
                fmt=f"{mark}-",
                color=colour,
                elinewidth=0.8,
                label=label,
            )
    axes.axvline(target_ms, color=LIGHT.target, ls="--", lw=1.2, label="the new search's target")
    set_label(
        axes.xaxis, f"time per inference (ms), {EMULATED}" if emulated else "latency (ms)", LIGHT
    )
    set_label(axes.yaxis, "top-1 accuracy (%)", LIGHT)
    add_legend(axes, LIGHT)
    return figure


def _entrants(old: Session, new: Session) -> list[tuple[Architecture, float | None, int | None]]:
    """Return each network once, with its multiplier or its trial."""
    for name in _ALIKE:
        mine, theirs = (getattr(session.directory.config, name) for session in (old, new))
        if mine != theirs:
            raise ConfigError(
                f"figure 6 compares networks trained and timed alike, and {name} of the two runs is {mine!r} and "
                f"{theirs!r}; search with the same one"
            )
    winner = old.pick(None).evaluation.architecture
    if not isinstance(winner, Architecture):
        raise ConfigError(
            f"figure 6 scales an architecture of blocks, and the winner of {old.directory.path} is {winner.notation}"
        )
    entrants: dict[str, tuple[Architecture, float | None, int | None]] = {}
    for multiplier in MULTIPLIERS:
        scaled = Scaling(depth_multiplier=multiplier).apply(winner)
        entrants.setdefault(scaled.id, (scaled, multiplier, None))
    for record in pareto_records(new.directory.trials(new.study)):
        architecture = record.evaluation.architecture
        if isinstance(architecture, Architecture):
            entrants.setdefault(architecture.id, (architecture, None, record.number))
    return list(entrants.values())
