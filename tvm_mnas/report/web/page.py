"""The page about a run: one HTML document that needs nothing else, pictures first.

All values are escaped, by jinja2 in `templates/page.html.j2` and by `svg.py` in pictures. The only script is ours,
named by its digest in the page's own policy, which forbids everything else: nothing is loaded, nothing is sent.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from tvm_mnas import __version__
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import untuned_flag
from tvm_mnas.evaluation.kernel_times import KernelFacts
from tvm_mnas.evaluation.manifest import Manifest
from tvm_mnas.plugins import DEVICE_EVALUATOR
from tvm_mnas.report.rows import (
    candidate_row,
    candidate_rows,
    effort_summary,
    pareto_rows,
)
from tvm_mnas.report.trials import (
    EMULATED,
    best_record,
    count_trials,
    count_unstable,
    is_emulated,
    worst_untuned_percent,
)
from tvm_mnas.report.web.cells import (
    show_accuracy,
    show_ms,
    show_spread,
    show_untuned,
    time_word,
)
from tvm_mnas.report.web.charts import (
    entropy_svg,
    histogram_svg,
    pareto_svg,
    progress_svg,
)
from tvm_mnas.report.web.choices import (
    WINDOW,
    Proposal,
    entropy_over_trials,
    preferences,
    proposals_of,
)
from tvm_mnas.report.web.content import (
    Blocks,
    Figure,
    Figures,
    KernelBars,
    PageContent,
    Paragraph,
    Part,
    Preferences,
    Section,
    Text,
    make_pairs,
)
from tvm_mnas.report.web.explorer import make_explorer
from tvm_mnas.report.web.sections import (
    accuracy_section,
    effort_section,
    export_section,
    failure_section,
    forecast_section,
    provenance_section,
)
from tvm_mnas.report.web.winner import kernel_bars, stages_of
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.catalogue import Space
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.space.space import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a page is about: the trials of a run, and what is known beside them.

    `best` is a trial number; `manifest` and `kernels` are of the exported network, None and empty if there is none;
    `space` is None where it cannot be found any more. `accuracy_notes` say how much the accuracies mean.
    """

    title: str
    records: Sequence[TrialRecord]
    reward: Reward
    config: SearchConfig
    space: Space | None = None
    finalists: frozenset[int] = frozenset()
    best: int | None = None
    manifest: Manifest | None = None
    kernels: tuple[KernelFacts, ...] = ()
    accuracy_notes: tuple[str, ...] = ()


def build_page(run: RunFacts) -> str:
    """Return the page: one HTML document."""
    records, reward, config = run.records, run.reward, run.config
    star = best_record(records, run.best)
    decisions = () if run.space is None else run.space.decisions
    proposals = [] if run.space is None else proposals_of(records, run.space)
    sections = (
        _front_section(run),
        _winner_section(star, run),
        _time_section(run, proposals, decisions),
        _preference_section(proposals, decisions),
        _candidates_section(run),
        effort_section(records),
        failure_section(records),
        accuracy_section(run.accuracy_notes),
        provenance_section(records),
        forecast_section(records),
        export_section(run.manifest),
        _configuration_section(config),
    )
    page = PageContent(
        title=run.title,
        subtitle=(
            f"{config.algorithm} over the space {config.space}, {_source(config)}; target "
            f"{reward.target_latency_ms:g} ms, alpha = {reward.alpha:g}, beta = {reward.beta:g}"
        ),
        warnings=tuple(_warnings(records)),
        tiles=tuple(_tiles(records, star, reward)),
        sections=tuple(section for section in sections if section is not None),
        footer=f"tvm-mnas {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return render_page(page)


def render_page(page: PageContent) -> str:
    """Return `page` as one HTML document."""
    environment = Environment(
        loader=PackageLoader("tvm_mnas.report.web"), autoescape=True, undefined=StrictUndefined
    )
    directory = files("tvm_mnas.report.web")
    style, script = (
        directory.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("page.html.j2")
    return template.render(page=page, style=style, script=script, digest=digest)


def _source(config: SearchConfig) -> str:
    """Return where accuracies and latencies come from."""
    if config.evaluator == DEVICE_EVALUATOR:
        return f"data {config.data}, device {config.device}"
    return f"evaluated by {config.evaluator}"


def _front_section(run: RunFacts) -> Section:
    svg = pareto_svg(run.records, run.reward, finalists=run.finalists, best=run.best)
    caption = (
        "Every candidate; point at one, or tap it. On the front no other is both faster and more accurate; its bars "
        "are the standard error of the accuracy and the interquartile range of the time. The dotted curve is worth as "
        "much as the best."
    )
    legend = (
        ("candidate", "candidate"),
        ("doubtful", "noisy, unstable or partly untuned"),
        ("front", "Pareto front"),
        ("ring", "finalist"),
        ("star", "best"),
    )
    return Section("Accuracy and latency", (Figure(svg, caption, legend, card=True),))


def _time_section(
    run: RunFacts, proposals: Sequence[Proposal], decisions: Sequence[Decision]
) -> Section:
    figures = [
        Figure(histogram_svg(run.records, run.reward), "Latencies of the distinct candidates."),
        Figure(
            progress_svg(run.records),
            "Reward of each trial, and the best so far.",
            (("candidate", "candidate"), ("repeat", "met before"), ("failed", "failed")),
        ),
    ]
    if (svg := entropy_svg(entropy_over_trials(proposals, decisions))) is not None:
        caption = (
            f"How varied the proposals of each {WINDOW} trials are, the mean over the decisions: 1 is undecided, 0 "
            f"always the same."
        )
        figures.append(Figure(svg, caption))
    return Section("The search over time", (Figures(tuple(figures)),))


def _winner_section(star: TrialRecord | None, run: RunFacts) -> Section | None:
    if star is None:
        return Section("Best candidate", (Paragraph("No candidate was measured yet."),))
    row = candidate_row(star)
    parts: list[Part] = []
    candidate = star.evaluation.architecture
    blocks = candidate.backbone if isinstance(candidate, DetectorArchitecture) else candidate
    if isinstance(blocks, Architecture):
        parts.append(Blocks(stages_of(blocks), candidate.notation))
    parts.append(
        make_pairs(
            [
                ("architecture", Text(row.architecture, "code")),
                ("id", Text(row.id, "code")),
                ("accuracy in the search", show_accuracy(row)),
                (
                    time_word(row),
                    f"{show_ms(row.latency_ms)}, spread {show_spread(row)}{show_untuned(row)}",
                ),
                ("reward", f"{row.reward:.4f}"),
                ("parameters", f"{row.parameters:,}"),
                ("mult-adds", f"{row.mult_adds:,}"),
            ]
        )
    )
    if run.kernels:
        parts.append(KernelBars(kernel_bars(run.kernels)))
    return Section(f"Best candidate: trial {star.number}", tuple(parts))


def _preference_section(
    proposals: Sequence[Proposal], decisions: Sequence[Decision]
) -> Section | None:
    found = preferences(proposals, decisions)
    if not found:
        return None
    groups = tuple((key, tuple(group)) for key, group in groupby(found, lambda one: one.group))
    note = "How often each choice was proposed in the last quarter of the trials; the mark: in the first."
    return Section("What the search came to prefer", (Paragraph(note, "note"), Preferences(groups)))


def _candidates_section(run: RunFacts) -> Section | None:
    rows = candidate_rows(run.records)
    if not rows:
        return None
    explorer = make_explorer(
        rows,
        front={row.trial for row in pareto_rows(run.records)},
        finalists=run.finalists,
        target_ms=run.reward.target_latency_ms,
    )
    return Section("Candidates", (explorer,))


def _configuration_section(config: SearchConfig) -> Section:
    entries = ((name, Text(f"{value}", "code")) for name, value in asdict(config).items())
    return Section("Settings", (make_pairs(entries, summary="Every setting of this run"),))


def _warnings(records: Sequence[TrialRecord]) -> list[str]:
    texts: list[str] = []
    if is_emulated(records):
        texts.append(f"Times on this page come from an emulator ({EMULATED}); they rank nothing.")
    flag = untuned_flag(worst_untuned_percent(records))
    if flag is not None:
        texts.append(f"Latency on this page: up to {flag}, which have no tuning record.")
    if unstable := count_unstable(records):
        texts.append(
            f"Latencies on this page measured while the device's clock, heat or speed changed: {unstable}."
        )
    return texts


def _tiles(
    records: Sequence[TrialRecord], star: TrialRecord | None, reward: Reward
) -> list[tuple[str, str]]:
    counts = count_trials(records)
    summary = effort_summary(records)
    tiles: list[tuple[str, str]] = []
    if star is not None:
        row = candidate_row(star)
        share = row.latency_ms / reward.target_latency_ms
        untuned = show_untuned(row)
        tiles += [
            (f"{row.accuracy_percent:.2f}%", "accuracy of the best, in the search"),
            (show_ms(row.latency_ms), f"{time_word(row)}, {share:.0%} of the target{untuned}"),
            (f"{row.reward:.4f}", "its reward"),
        ]
    tiles += [
        (f"{counts.candidates:,}", f"distinct candidates in {counts.trials:,} trials"),
        (f"{counts.failed:,}", "of them failed"),
        (f"{summary.kernels_tuned:,}", "kernels tuned"),
    ]
    return tiles
