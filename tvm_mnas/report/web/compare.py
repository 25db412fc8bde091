"""Several runs laid over each other: their fronts, their best so far, and the settings in which they differ.

Rewards of different targets do not compare, so that every run is judged here by one reward: the first run's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from tvm_mnas import __version__
from tvm_mnas.errors import ConfigError
from tvm_mnas.report.trials import (
    EMULATED,
    accuracy_name,
    count_trials,
    is_emulated,
    latencies_of,
    measured,
    pareto_records,
)
from tvm_mnas.report.web.cells import show_ms
from tvm_mnas.report.web.charts import stairs
from tvm_mnas.report.web.content import (
    Column,
    Figure,
    Figures,
    PageContent,
    Paragraph,
    Section,
    Table,
    Text,
    make_pairs,
    make_table,
)
from tvm_mnas.report.web.page import RunFacts, render_page
from tvm_mnas.report.web.svg import plane, whole_ticks
from tvm_mnas.search.pareto import Point, hypervolume
from tvm_mnas.search.reward import Reward

MOST_RUNS = 6
"""There are so many colours."""
_SLACK = 2.0
"""The hypervolume reaches up to the target times this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run beside others: its best by the reward of the first run, and the hypervolume of its front.

    `best_*` are None where nothing was measured. The hypervolume is in percent of accuracy times twice the target.
    """

    run: str
    trials: int
    candidates: int
    failed: int
    best_trial: int | None
    best_reward: float | None
    best_accuracy_percent: float | None
    best_latency_ms: float | None
    hypervolume_percent: float


def summarize(runs: Sequence[RunFacts]) -> tuple[RunSummary, ...]:
    """Return a row for each run, in their order.

    Raises:
        ConfigError: if there are fewer than two runs, or more than there are colours.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise ConfigError(
            f"2 to {MOST_RUNS} runs are laid over each other, not {len(runs)}; name them: `tvm-mnas compare RUN RUN`"
        )
    return tuple(_summary(run, runs[0].reward) for run in runs)


def build_comparison(runs: Sequence[RunFacts]) -> str:
    """Return one HTML document about `runs`, as self-contained as a run's own page.

    Raises:
        ConfigError: if there are fewer than two runs, or more than there are colours.
    """
    summaries = summarize(runs)
    reward = runs[0].reward
    legend = tuple((f"run-{at}", run.title) for at, run in enumerate(runs))
    page = PageContent(
        title=" / ".join(run.title for run in runs),
        subtitle=(
            f"{len(runs)} runs, all judged by the first one's reward: target {reward.target_latency_ms:g} ms, "
            f"alpha = {reward.alpha:g}, beta = {reward.beta:g}"
        ),
        warnings=tuple(_warnings(runs)),
        tiles=(),
        sections=(
            Section(
                "Laid over each other",
                (
                    Figures(
                        (
                            Figure(
                                _fronts_svg(runs),
                                "Every measured candidate, each run's Pareto front and its target.",
                                legend,
                            ),
                            Figure(
                                _progress_svg(runs),
                                "The best reward so far over the trials.",
                                legend,
                            ),
                        )
                    ),
                ),
            ),
            Section("Side by side", (_summary_table(summaries),)),
            _settings_section(runs),
        ),
        footer=f"tvm-mnas {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return render_page(page)


def _summary(run: RunFacts, reward: Reward) -> RunSummary:
    counts = count_trials(run.records)
    points = [
        (record.number, Point(*record.evaluation.objectives))
        for record in measured(run.records)
        if record.evaluation.objectives
    ]
    best = max(points, key=lambda one: reward(*one[1]), default=None)
    reach_ms = _SLACK * reward.target_latency_ms
    volume = hypervolume([point for _, point in points], reference=Point(0.0, reach_ms))
    return RunSummary(
        run=run.title,
        trials=counts.trials,
        candidates=counts.candidates,
        failed=counts.failed,
        best_trial=None if best is None else best[0],
        best_reward=None if best is None else reward(*best[1]),
        best_accuracy_percent=None if best is None else 100.0 * best[1].accuracy,
        best_latency_ms=None if best is None else best[1].latency_ms,
        hypervolume_percent=100.0 * volume / reach_ms,
    )


def _warnings(runs: Sequence[RunFacts]) -> list[str]:
    texts: list[str] = []
    ways = {
        (one.device_key, one.fingerprint, one.target, one.precision)
        for run in runs
        for one in latencies_of(run.records)
    }
    if len(ways) > 1:
        texts.append(
            f"The latencies on this page were measured in {len(ways)} different ways and do not compare: device, "
            f"fingerprint, target or precision differ between the runs or within one."
        )
    if any(is_emulated(run.records) for run in runs):
        texts.append(f"Times on this page come from an emulator ({EMULATED}); they rank nothing.")
    spaces = {run.config.space for run in runs}
    if len(spaces) > 1:
        texts.append(f"The runs searched different spaces: {', '.join(sorted(spaces))}.")
    return texts


def _fronts_svg(runs: Sequence[RunFacts]) -> str:
    points = [
        [
            (r.evaluation.objectives[1], 100.0 * r.evaluation.objectives[0], r.number)
            for r in measured(run.records)
            if r.evaluation.objectives
        ]
        for run in runs
    ]
    targets = sorted({run.reward.target_latency_ms for run in runs})
    drawing = plane(
        f"Accuracy over latency of {len(runs)} runs",
        [*(time for run in points for time, _, _ in run), *targets],
        [percent for run in points for _, percent, _ in run] or [0.0, 100.0],
        times=True,
    )
    drawing.axes("latency (ms)", accuracy_name([record for run in runs for record in run.records]))
    count = max(len(run) for run in points)
    radius = max(1.6, 3.6 - math.log10(max(count, 10) / 10.0))
    for at, (run, mine) in enumerate(zip(runs, points, strict=True)):
        target = drawing.x(run.reward.target_latency_ms)
        drawing.line(target, drawing.y.start, target, drawing.y.end, f"run-{at}")
        for time, percent, _ in mine:
            drawing.dot(time, percent, f"run-{at}", radius=radius, index=None)
        front = [
            (one.evaluation.objectives[1], 100.0 * one.evaluation.objectives[0])
            for one in pareto_records(run.records)
            if one.evaluation.objectives
        ]
        drawing.curve(stairs(front), f"run-{at}")
    if not any(points):
        drawing.say("No candidate was measured yet.")
    return drawing.svg()


def _progress_svg(runs: Sequence[RunFacts]) -> str:
    reward = runs[0].reward
    curves = [_best_so_far(run, reward) for run in runs]
    drawing = plane(
        f"The best reward so far of {len(runs)} runs",
        [number for curve in curves for number, _ in curve],
        [value for curve in curves for _, value in curve],
    )
    drawing.axes("trial", "best reward so far", x_ticks=whole_ticks(drawing.x))
    for at, curve in enumerate(curves):
        drawing.curve(curve, f"run-{at}")
    if not any(curves):
        drawing.say("No trial has a reward yet.")
    return drawing.svg()


def _best_so_far(run: RunFacts, reward: Reward) -> list[tuple[float, float]]:
    """Return where the best reward rose, and where the run ended, as a curve of steps."""
    rises: list[tuple[float, float]] = []
    for record in run.records:
        if record.evaluation.objectives is None:
            continue
        value = reward(*record.evaluation.objectives)
        if not rises or value > rises[-1][1]:
            rises.append((record.number, value))
    if rises:
        rises.append((run.records[-1].number, rises[-1][1]))
    return stairs(rises)


def _summary_table(summaries: Sequence[RunSummary]) -> Table:
    columns = (
        Column("run", "run", number=False),
        Column("trials", "trials", lambda value: f"{value:,}"),
        Column("failed", "failed", lambda value: f"{value:,}"),
        Column("best reward", "best_reward", lambda value: f"{value:.4f}"),
        Column("its trial", "best_trial"),
        Column("accuracy", "best_accuracy_percent", lambda value: f"{value:.2f}%"),
        Column("latency", "best_latency_ms", show_ms),
        Column("hypervolume", "hypervolume_percent", lambda value: f"{value:.2f}%"),
    )
    return make_table(columns, [asdict(one) for one in summaries])


def _settings_section(runs: Sequence[RunFacts]) -> Section:
    settings = [asdict(run.config) for run in runs]
    differ = [name for name in settings[0] if len({str(one[name]) for one in settings}) > 1]
    if not differ:
        return Section("Settings", (Paragraph("All settings are equal."),))
    entries = [
        (name, Text("   |   ".join(str(one[name]) for one in settings), "code")) for name in differ
    ]
    return Section("Settings that differ", (make_pairs(entries),))
