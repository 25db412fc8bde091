"""The report of a run: a page, and its pictures beside it as PNG files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.manifest import MANIFEST, Manifest, read_manifest
from tvm_mnas.files import atomic_write_text
from tvm_mnas.report.content import Picture
from tvm_mnas.report.drawing import DARK, LIGHT, Theme, render_png, write_png
from tvm_mnas.report.figures import (
    latency_histogram_figure,
    pareto_figure,
)
from tvm_mnas.report.page import build_page
from tvm_mnas.report.progress import progress_figure, tuning_figure
from tvm_mnas.report.trials import count_trials
from tvm_mnas.search.proxy import accuracy_notes
from tvm_mnas.search.result import pick_finalists
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import RunDirectory, TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ReportFiles(NamedTuple):
    """The files of a report."""

    page: Path
    pareto: Path
    latencies: Path
    progress: Path
    tuning: Path


def write_report(
    run: RunDirectory, records: Sequence[TrialRecord], *, best: TrialRecord | None = None
) -> ReportFiles:
    """Write page and pictures of `run` to its directory `report/` and return their paths.

    `best` is highlighted; without it the trial that `best/` was exported from, else the highest reward.

    Raises:
        RunError: if a file cannot be written.
    """
    manifest: Manifest | None = None
    # A page without the part about the export is better than no page.
    with contextlib.suppress(RunError):
        manifest = read_manifest(run.path / "best" / MANIFEST)
    exported = None if manifest is None else manifest.origin.trial
    number = best.number if best is not None else exported
    if exported != number:
        manifest = None
    finalists = {record.number for record in pick_finalists(records, run.config.finalists)}
    pictures = draw_pictures(records, run.reward, finalists=finalists, best=number)
    page = build_page(
        records,
        run.reward,
        run.config,
        pictures,
        title=run.path.resolve().name,
        best=number,
        manifest=manifest,
        accuracy_notes=accuracy_notes(run, records),
    )
    directory = run.path / "report"
    paths = ReportFiles(
        directory / "index.html", *(directory / f"{name}.png" for name in ReportFiles._fields[1:])
    )
    try:
        directory.mkdir(exist_ok=True)
        for path, picture in zip(paths[1:], pictures, strict=True):
            write_png(path, picture.light)
        atomic_write_text(paths.page, page)
    except OSError as error:
        raise RunError(
            f"cannot write the report in {directory}: {error.strerror}; "
            f"check the directory and `df -h {run.path}`, then `tvm-mnas report {run.path}`"
        ) from error
    return paths


def draw_pictures(
    records: Sequence[TrialRecord],
    reward: Reward,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
) -> list[Picture]:
    """Return the pictures of a report in the order of `ReportFiles`."""
    counts = count_trials(records)
    of_all = f"of {counts.measured} measured candidates"
    builders: list[tuple[Callable[[Theme], Figure], str]] = [
        (
            lambda theme: pareto_figure(
                records, reward, finalists=finalists, best=best, theme=theme
            ),
            f"Accuracy over latency {of_all}, with their Pareto front and the target latency",
        ),
        (
            lambda theme: latency_histogram_figure(records, reward, theme=theme),
            f"Histogram of the latencies {of_all}, with the target latency",
        ),
        (
            lambda theme: progress_figure(records, theme=theme),
            f"Reward of each of {counts.trials} trials and the best so far",
        ),
        (
            lambda theme: tuning_figure(records, theme=theme),
            f"Kernels of {counts.candidates} distinct candidates and how many had to be tuned",
        ),
    ]
    return [
        Picture(render_png(build(LIGHT)), render_png(build(DARK)), description)
        for build, description in builders
    ]
