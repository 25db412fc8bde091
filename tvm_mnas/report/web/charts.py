"""The pictures of the page: every candidate on its Pareto front, the latencies, reward and entropy, the costs.

Each function takes the trials of one run and returns SVG. `data-i` of a dot is the trial's number, by which the page's
script finds the row that belongs to it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from tvm_mnas.report.drawing import bar_edges, spans_decades
from tvm_mnas.report.rows import effort_rows
from tvm_mnas.report.trials import (
    EMULATED,
    accuracy_name,
    best_record,
    is_emulated,
    measured,
    pareto_records,
)
from tvm_mnas.report.web.cells import show_ms, show_seconds
from tvm_mnas.report.web.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Scale,
    plane,
    whole_ticks,
)
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord

HERO_WIDTH, HERO_HEIGHT = 520.0, 350.0
_MOST_BARS = 40
"""A front with more members is drawn without error bars."""
_CURVE_STEPS = 60


def pareto_svg(
    records: Sequence[TrialRecord],
    reward: Reward,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
) -> str:
    """Return accuracy over latency of every measured candidate, with front, target and error bars of the front."""
    candidates = measured(records)
    target = reward.target_latency_ms
    points = {record.number: _point(record) for record in candidates}
    times = [time for time, _ in points.values()]
    front = pareto_records(records)
    bars = front if len(front) <= _MOST_BARS else []
    ends = [points[one.number][1] + sign * _error_percent(one) for one in bars for sign in (-1, 1)]
    drawing = plane(
        f"Accuracy over latency of {len(candidates)} measured candidates, with their Pareto front and the target",
        [*times, target],
        [*(accuracy for _, accuracy in points.values()), *ends] or [0.0, 100.0],
        times=True,
        width=HERO_WIDTH,
        height=HERO_HEIGHT,
    )
    drawing.axes(_time_name(records), accuracy_name(records))
    _draw_target(drawing, target)
    star = best_record(records, best)
    if star is not None and star.reward and len(candidates) > 1:
        drawing.curve(_equal_reward(drawing, reward, star.reward), "equal")
    radius = 0.8 * _radius(len(candidates))
    for record in candidates:
        drawing.dot(*points[record.number], _dot_class(record), radius=radius, index=record.number)
    drawing.curve(stairs([points[record.number] for record in front]), "front")
    for record in bars:
        _draw_error(drawing, record)
    for record in front:
        drawing.dot(
            *points[record.number],
            f"on-front {_dot_class(record)}",
            radius=radius + 0.7,
            index=record.number,
        )
    for record in candidates:
        if record.number in finalists:
            drawing.dot(*points[record.number], "ring", radius=radius + 3, index=None)
    if star is not None and star.number in points:
        drawing.star(*points[star.number], "star", radius=7.5, index=star.number)
    if not candidates:
        drawing.say("No candidate was measured yet.")
    return drawing.svg()


def histogram_svg(records: Sequence[TrialRecord], reward: Reward) -> str:
    """Return the histogram of the latencies, in which the target is an edge between two bars."""
    times = [_point(record)[0] for record in measured(records)]
    target = reward.target_latency_ms
    logarithmic = spans_decades([*times, target])
    edges = bar_edges(times, target, logarithmic=logarithmic) if times else [target, target * 1.1]
    counts = [0] * (len(edges) - 1)
    for time in times:
        place = sum(edge <= time for edge in edges[1:-1])
        counts[place] += 1
    drawing = Drawing(
        f"Histogram of the latencies of {len(times)} candidates, with the target",
        Scale.over_times([*edges, target], LEFT, WIDTH - RIGHT),
        Scale(0.0, 1.1 * max(counts, default=0) or 1.0, HEIGHT - BOTTOM, TOP),
    )
    drawing.axes(_time_name(records), "distinct candidates", y_ticks=whole_ticks(drawing.y))
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            x, y = drawing.x(left), drawing.y(count)
            drawing.bar(
                x + 0.5,
                y,
                drawing.x(right) - x - 1,
                drawing.y.start - y,
                "within" if right <= target * (1 + 1e-9) else "beyond",
                f"{count} from {show_ms(left)} to {show_ms(right)}",
            )
    _draw_target(drawing, target)
    if not times:
        drawing.say("No candidate was measured yet.")
    return drawing.svg()


def progress_svg(records: Sequence[TrialRecord]) -> str:
    """Return the reward of every trial and the best so far."""
    rewarded = [(r.number, r.reward) for r in records if r.reward is not None]
    numbers = [float(record.number) for record in records]
    drawing = plane(
        f"Reward of each of {len(records)} trials and the best so far",
        numbers,
        [reward for _, reward in rewarded],
    )
    drawing.axes("trial", "reward", x_ticks=whole_ticks(drawing.x))
    radius = _radius(len(records)) - 0.5
    for record in records:
        if record.reward is not None:
            kind = "repeat" if record.repeats is not None else "candidate"
            drawing.dot(record.number, record.reward, kind, radius=radius, index=record.number)
        else:
            drawing.dot(
                record.number, drawing.y.least, "failed", radius=radius, index=record.number
            )
    best: list[tuple[float, float]] = []
    for number, reward in rewarded:
        best.append((number, max(reward, best[-1][1] if best else reward)))
    if best:
        best.append((numbers[-1], best[-1][1]))
    drawing.curve(stairs(best), "front")
    if not rewarded:
        drawing.say("No trial has a reward yet.")
    return drawing.svg()


def entropy_svg(series: Sequence[tuple[float, float]]) -> str | None:
    """Return how varied the proposals are over time, from `choices.entropy_over_trials`; None for few trials."""
    if len(series) < 2:
        return None
    drawing = plane(
        "Entropy of the last proposals over the trials",
        [number for number, _ in series],
        [0.0, 1.0],
    )
    drawing.axes("trial", "entropy of the proposals", x_ticks=whole_ticks(drawing.x))
    drawing.curve(series, "front")
    return drawing.svg()


def costs_svg(records: Sequence[TrialRecord]) -> str | None:
    """Return what each stage took, None where nothing did."""
    rows = [row for row in effort_rows(records) if row.total_s > 0]
    if not rows:
        return None
    height = 26.0 * len(rows) + 10
    drawing = Drawing(
        "Time of each stage",
        Scale(0.0, max(row.total_s for row in rows), 96.0, WIDTH - 110),
        Scale(0.0, 1.0, height, 0.0),
        height=height,
        css_class="bars",
    )
    for at, row in enumerate(rows):
        y = 6 + 26.0 * at
        drawing.text(88, y + 15, row.stage, "tick end")
        end = drawing.x(row.total_s)
        drawing.bar(drawing.x.start, y, end - drawing.x.start, 20, "within")
        words = f"{show_seconds(row.total_s)}, {row.share_percent:.0f}%"
        drawing.text(end + 6, y + 15, words, "tick")
    return drawing.svg()


def _point(record: TrialRecord) -> tuple[float, float]:
    objectives = record.evaluation.objectives
    assert objectives is not None
    accuracy, latency_ms = objectives
    return latency_ms, 100.0 * accuracy


def _dot_class(record: TrialRecord) -> str:
    latency = record.evaluation.latency
    doubtful = latency is not None and (
        latency.noisy or bool(latency.warnings) or bool(latency.coverage.untuned_percent)
    )
    return "candidate doubtful" if doubtful else "candidate"


def _draw_error(drawing: Drawing, record: TrialRecord) -> None:
    latency = record.evaluation.latency
    assert latency is not None
    time, percent = _point(record)
    half = _error_percent(record)
    x, y = drawing.x(time), drawing.y(percent)
    drawing.line(x, drawing.y(percent - half), x, drawing.y(percent + half), "error")
    width = 0.5 * latency.spread * time
    least = max(time - width, drawing.x.least, 1e-9)
    drawing.line(drawing.x(least), y, drawing.x(time + width), y, "error")


def _error_percent(record: TrialRecord) -> float:
    assert record.evaluation.accuracy is not None
    return 100.0 * record.evaluation.accuracy.standard_error


def _draw_target(drawing: Drawing, target: float) -> None:
    at = drawing.x(target)
    drawing.line(at, drawing.y.start, at, drawing.y.end, "target")
    to_left = at > (drawing.x.start + drawing.x.end) / 2
    drawing.text(
        at - 5 if to_left else at + 5,
        drawing.y.end + 11,
        f"target {show_ms(target)}",
        f"target-name {'end' if to_left else ''}",
    )


def _equal_reward(drawing: Drawing, reward: Reward, worth: float) -> list[tuple[float, float]]:
    """Return the curve of what is worth as much as the best, within the picture."""
    curve: list[tuple[float, float]] = []
    for step in range(_CURVE_STEPS + 1):
        share = step / _CURVE_STEPS
        x = drawing.x
        least = max(x.least, 1e-3 * x.most)
        time = (
            least * (x.most / least) ** share if x.logarithmic else least + share * (x.most - least)
        )
        percent = 100.0 * worth / reward(1.0, time)
        if drawing.y.least <= percent <= drawing.y.most:
            curve.append((time, percent))
    return curve


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return `points` joined by steps: a value holds until the next one."""
    steps: list[tuple[float, float]] = []
    for point in points:
        if steps:
            steps.append((point[0], steps[-1][1]))
        steps.append(point)
    return steps


def _time_name(records: Sequence[TrialRecord]) -> str:
    return f"time per inference (ms), {EMULATED}" if is_emulated(records) else "latency (ms)"


def _radius(count: int) -> float:
    return max(2.0, min(5.0, 5.0 - 1.5 * math.log10(max(count, 1) / 100.0)))
