"""The report of a run: a page, and pictures beside it as PNG files; and the page of several runs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from tvm_mnas.config import DETECTION_TASK, SearchConfig
from tvm_mnas.errors import RunError, TvmMnasError
from tvm_mnas.evaluation.kernel_times import KERNELS, KernelFacts, read_kernels
from tvm_mnas.evaluation.manifest import MANIFEST, Manifest, read_manifest
from tvm_mnas.files import atomic_write_text
from tvm_mnas.plugins import SPACES, is_reference
from tvm_mnas.report.drawing import render_png, write_png
from tvm_mnas.report.figures import (
    latency_histogram_figure,
    pareto_figure,
)
from tvm_mnas.report.progress import progress_figure, tuning_figure
from tvm_mnas.report.web.compare import build_comparison
from tvm_mnas.report.web.page import RunFacts, build_page
from tvm_mnas.search.proxy import accuracy_notes
from tvm_mnas.search.result import pick_finalists
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.catalogue import Space, find_space
from tvm_mnas.space.detector import DetectorSpace
from tvm_mnas.space.space import SearchSpace


class ReportFiles(NamedTuple):
    """The files of a report."""

    page: Path
    pareto: Path
    latencies: Path
    progress: Path
    tuning: Path


def run_facts(
    run: RunDirectory, records: Sequence[TrialRecord], *, best: TrialRecord | None = None
) -> RunFacts:
    """Return what a page about `run` is made of.

    `best` is highlighted; without it the trial that `best/` was exported from, else the highest reward. What cannot be
    read beside the trials is left out: a page without the part about the export is better than no page.
    """
    manifest: Manifest | None = None
    kernels: tuple[KernelFacts, ...] = ()
    with contextlib.suppress(RunError):
        manifest = read_manifest(run.path / "best" / MANIFEST)
    exported = None if manifest is None else manifest.origin.trial
    number = best.number if best is not None else exported
    if exported != number:
        manifest = None
    if manifest is not None:
        with contextlib.suppress(RunError):
            kernels = read_kernels(run.path / "best" / KERNELS)
    finalists = pick_finalists(records, run.config.finalists)
    return RunFacts(
        title=run.path.resolve().name,
        records=records,
        reward=run.reward,
        config=run.config,
        space=_space(run.config),
        finalists=frozenset(record.number for record in finalists),
        best=number,
        manifest=manifest,
        kernels=kernels,
        accuracy_notes=accuracy_notes(run, records),
    )


def write_report(
    run: RunDirectory, records: Sequence[TrialRecord], *, best: TrialRecord | None = None
) -> ReportFiles:
    """Write page and pictures of `run` to its directory `report/` and return their paths; `best` as in `run_facts`.

    Raises:
        RunError: if a file cannot be written.
    """
    facts = run_facts(run, records, best=best)
    pictures = draw_pictures(records, run.reward, finalists=facts.finalists, best=facts.best)
    directory = run.path / "report"
    paths = ReportFiles(
        directory / "index.html", *(directory / f"{name}.png" for name in ReportFiles._fields[1:])
    )
    try:
        directory.mkdir(exist_ok=True)
        for path, picture in zip(paths[1:], pictures, strict=True):
            write_png(path, picture)
        atomic_write_text(paths.page, build_page(facts))
    except OSError as error:
        raise RunError(
            f"cannot write the report in {directory}: {error.strerror}; "
            f"check the directory and `df -h {run.path}`, then `tvm-mnas report {run.path}`"
        ) from error
    return paths


def write_comparison(runs: Sequence[RunFacts], path: Path) -> None:
    """Write the page of `runs` to `path`.

    Raises:
        ConfigError: if there are fewer than two runs, or more than there are colours.
        RunError: if it cannot be written.
    """
    page = build_comparison(runs)
    try:
        atomic_write_text(path, page)
    except OSError as error:
        raise RunError(
            f"cannot write the page {path}: {error.strerror}; name another place with -o"
        ) from error


def draw_pictures(
    records: Sequence[TrialRecord],
    reward: Reward,
    *,
    finalists: Collection[int] = (),
    best: int | None = None,
) -> list[bytes]:
    """Return the pictures of a report as PNG files, in the order of `ReportFiles`."""
    figures = (
        pareto_figure(records, reward, finalists=finalists, best=best),
        latency_histogram_figure(records, reward),
        progress_figure(records),
        tuning_figure(records),
    )
    return [render_png(figure) for figure in figures]


def _space(config: SearchConfig) -> Space | None:
    """Return the space of a run, None where it cannot be found any more.

    A report imports no file that a run names: it may be from somebody else.
    """
    name = config.space
    if is_reference(name) and not SPACES.knows(name):
        return None
    with contextlib.suppress(TvmMnasError):
        found = find_space(name)
        if config.task == DETECTION_TASK and isinstance(found, SearchSpace):
            # What was decided does not depend on the classes, which the run's data would have to tell.
            return DetectorSpace(found, classes=1)
        return found
    return None
