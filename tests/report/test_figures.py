"""Pictures, looked into as matplotlib figures: what is drawn, what is said, and that files are PNG."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.report.runs import (
    REWARD,
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tests.report.test_rows import naive_pareto
from tvm_mnas.errors import RunError
from tvm_mnas.report.drawing import bar_edges, render_png
from tvm_mnas.report.figures import (
    latency_histogram_figure,
    pareto_figure,
    plot_latency_histogram,
    plot_pareto,
)
from tvm_mnas.report.progress import plot_progress, plot_tuning, progress_figure, tuning_figure
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord

Builder = Callable[[list[TrialRecord]], Figure]

BUILDERS: dict[str, Builder] = {
    "pareto": lambda records: pareto_figure(records, REWARD),
    "latencies": lambda records: latency_histogram_figure(records, REWARD),
    "progress": progress_figure,
    "tuning": tuning_figure,
}
every_figure = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def texts_of(figure: Figure) -> str:
    """Every text in the picture, one a line."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def labelled(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """The points of each line that has a label."""
    (axes,) = figure.axes
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()]
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_the_naive_pareto_set(seed: int) -> None:
    records = make_run(40, seed=seed)
    members = naive_pareto(records)
    expected = sorted(
        (r.evaluation.objectives[1], 100 * r.evaluation.objectives[0])
        for r in records
        if r.number in members and r.evaluation.objectives
    )
    assert labelled(pareto_figure(records, REWARD))["Pareto front"] == expected


def test_every_measured_candidate_is_a_dot_once() -> None:
    records = make_run(40)
    lines = labelled(pareto_figure(records, REWARD))
    drawn = sorted(lines["candidate"] + lines["noisy latency"])
    assert drawn == sorted(
        (r.evaluation.objectives[1], 100 * r.evaluation.objectives[0])
        for r in records
        if r.repeats is None and r.evaluation.objectives
    )
    assert lines["noisy latency"]


def test_target_best_and_finalists_are_marked() -> None:
    records = make_run(40)
    best, other = [r for r in records if r.reward is not None][4:6]
    figure = pareto_figure(records, REWARD, finalists=(best.number, other.number), best=best.number)
    lines = labelled(figure)
    assert {x for x, _ in lines["target: 0.06 ms"]} == {0.06}
    point = (best.evaluation.latency.latency_ms, 100 * best.evaluation.accuracy.top1)
    assert lines[f"best: trial {best.number}"] == [point]
    assert len(lines["finalist"]) == 2
    assert point in lines["finalist"]


def test_the_dotted_curve_joins_equal_rewards() -> None:
    records = make_run(40)
    hard = Reward.hard(0.06)
    for reward in (REWARD, hard):
        scored = [
            TrialRecord(r.number, r.evaluation, reward(*r.evaluation.objectives), r.repeats)
            for r in records
            if r.evaluation.objectives
        ]
        top = max(r.reward for r in scored)
        curve = labelled(pareto_figure(scored, reward))[f"reward {top:.4g}"]
        inside = [(ms, percent) for ms, percent in curve if percent <= 100]
        assert len(inside) > 10
        assert [reward(percent / 100, ms) for ms, percent in inside] == pytest.approx(
            [top] * len(inside)
        )


def test_the_histogram_counts_every_candidate_on_its_side_of_the_target() -> None:
    records = make_run(60)
    times = [
        r.evaluation.latency.latency_ms
        for r in records
        if r.repeats is None and r.evaluation.latency
    ]
    within = sum(time <= 0.06 for time in times)
    figure = latency_histogram_figure(records, REWARD)
    (axes,) = figure.axes
    fast, slow = (sum(bar.get_height() for bar in bars) for bars in axes.containers)
    assert (fast, slow) == (within, len(times) - within)
    assert f"within the target: {within}" in texts_of(figure)
    for bar in axes.containers[0]:
        if bar.get_height():
            assert bar.get_x() + bar.get_width() <= 0.06 + 1e-12


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("target", [0.001, 0.06, 0.5, 90.0])
@pytest.mark.parametrize("times", [[0.06], [0.05, 0.05], [0.01, 0.02, 0.9], [0.03, 0.06, 80.0]])
def test_bars_ascend_and_hold_every_time(
    times: list[float], target: float, logarithmic: bool
) -> None:
    edges = bar_edges(times, target, logarithmic=logarithmic)
    assert all(left < right for left, right in itertools.pairwise(edges))
    assert edges[0] <= min(times)
    assert max(times) <= edges[-1]
    assert len(edges) <= 43


def test_a_few_slow_candidates_get_a_logarithmic_axis() -> None:
    a, b, c = sample_architectures(3)
    near = [
        make_success(0, a, 0.7, make_latency(0.05)),
        make_success(1, b, 0.7, make_latency(0.06)),
    ]
    far = [*near, make_success(2, c, 0.7, make_latency(5.0))]
    for build in (pareto_figure, latency_histogram_figure):
        assert build(near, REWARD).axes[0].get_xscale() == "linear"
        assert build(far, REWARD).axes[0].get_xscale() == "log"


def test_progress_shows_the_best_so_far_repeats_and_failures() -> None:
    a, b, c, d = sample_architectures(4)
    records = [
        make_success(0, a, 0.6, make_latency(0.06)),
        make_failure(1, b),
        make_success(2, c, 0.8, make_latency(0.06)),
        make_success(3, d, 0.7, make_latency(0.06)),
        make_success(4, a, 0.6, make_latency(0.06), repeats=0),
        make_failure(5, b),
    ]
    lines = labelled(progress_figure(records))
    assert lines["best so far"] == [(0, 0.6), (2, 0.8), (3, 0.8), (4, 0.8), (5, 0.8)]
    assert lines["candidate"] == [(0, 0.6), (2, 0.8), (3, 0.7)]
    assert lines["met before"] == [(4, 0.6)]
    assert [x for x, _ in lines["failed: no reward"]] == [1, 5]


@pytest.mark.parametrize("count", [20, 500])
def test_the_tuning_picture_keeps_the_number_of_kernels(count: int) -> None:
    (architecture,) = sample_architectures(1)
    records = [make_success(i, architecture, 0.7, make_latency(0.05)) for i in range(count)]
    (axes,) = tuning_figure(records).axes
    values, edges, _ = axes.patches[0].get_data()  # type: ignore[attr-defined]
    widths = [right - left for left, right in itertools.pairwise(edges)]
    assert sum(v * w for v, w in zip(values, widths, strict=True)) == pytest.approx(12 * count)
    assert len(values) <= 120


@every_figure
def test_titles_labels_and_counts_are_there(build: Builder) -> None:
    figure = build(make_run(40))
    texts = texts_of(figure)
    assert "on local" in texts
    assert "36 distinct candidates in 40 trials: 32 measured, 4 failed." in texts
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert axes.lines or axes.patches
    assert "emulated" not in texts


@every_figure
def test_times_with_untuned_kernels_in_them_say_so(build: Builder) -> None:
    (architecture,) = sample_architectures(1)

    def texts(share: float) -> str:
        record = make_success(0, architecture, 0.7, make_latency(0.05, tuned_share=share))
        return " ".join(texts_of(build([record])).split())

    assert "up to 3.1% of it in untuned kernels" in texts(0.969)
    assert "untuned" not in texts(1.0)


@every_figure
def test_emulated_times_are_never_called_latencies(build: Builder) -> None:
    figure = build(make_run(20, emulated=True, device_key="k" * 200))
    assert "emulated: not a latency" in " ".join(texts_of(figure).split())
    assert "latency (ms)" not in texts_of(figure)


@every_figure
@pytest.mark.parametrize("count", [0, 1])
def test_a_run_with_next_to_nothing_says_so(build: Builder, count: int) -> None:
    figure = build(make_run(count))
    if count == 0:
        assert "yet." in texts_of(figure)
    elif build is not tuning_figure:
        assert "Only one candidate was measured" in texts_of(figure)
    assert render_png(figure).startswith(b"\x89PNG")


@every_figure
def test_a_run_with_failures_alone_says_so(build: Builder) -> None:
    records = [make_failure(i, a) for i, a in enumerate(sample_architectures(3))]
    figure = build(records)
    assert "3 distinct candidates in 3 trials: 0 measured, 3 failed." in texts_of(figure)
    assert render_png(figure).startswith(b"\x89PNG")


@every_figure
def test_a_hostile_device_key_is_drawn_as_it_is(build: Builder) -> None:
    figure = build(make_run(5, device_key="$\\frac{$ <b>\n%s"))
    assert "$\\frac{$ <b> %s" in texts_of(figure)
    assert render_png(figure).startswith(b"\x89PNG")


def test_files_are_png_of_the_same_size(tmp_path: Path) -> None:
    records = make_run(20)
    plot_pareto(records, REWARD, tmp_path / "pareto.png", finalists=(0,), best=0)
    plot_latency_histogram(records, REWARD, tmp_path / "latencies.png")
    plot_progress(records, tmp_path / "progress.png")
    plot_tuning(records, tmp_path / "tuning.png")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    sizes = set()
    for file in files:
        content = file.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert content[12:16] == b"IHDR"
        sizes.add(struct.unpack(">II", content[16:24]))
    assert sizes == {(1080, 810)}


def test_equal_runs_make_equal_files() -> None:
    first, second = (render_png(pareto_figure(make_run(10), REWARD)) for _ in range(2))
    assert first == second


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/pareto\.png"):
        plot_pareto([], REWARD, tmp_path / "nowhere" / "pareto.png")


def test_nothing_heavy_is_imported_and_pyplot_is_left_alone() -> None:
    code = (
        "import sys; import tvm_mnas.report.html, tvm_mnas.report.progress as f; "
        "assert not {'torch', 'tvm', 'optuna', 'matplotlib'} & set(sys.modules); "
        "f.render_png(f.progress_figure([])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
