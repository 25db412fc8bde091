"""The page about a run: one HTML document that needs nothing else.

No script runs and nothing is loaded: pictures are embedded, and the page's own policy forbids the rest. All
values are escaped by jinja2 in `templates/page.html.j2`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from tvm_mnas import __version__
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import format_percent, untuned_flag
from tvm_mnas.evaluation.manifest import Manifest
from tvm_mnas.report.cells import (
    show_accuracy,
    show_ms,
    show_range,
    show_seconds,
    show_share,
    show_spread,
    show_tiny,
    show_trials,
    show_untuned,
    time_word,
)
from tvm_mnas.report.content import (
    Column,
    PageContent,
    Pairs,
    Paragraph,
    Part,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    make_pairs,
    make_table,
)
from tvm_mnas.report.rows import (
    CandidateRow,
    ProvenanceRow,
    candidate_row,
    candidate_rows,
    effort_rows,
    effort_summary,
    failure_rows,
    forecast_latency,
    pareto_rows,
    provenance_rows,
)
from tvm_mnas.report.text import latency_forecast_line
from tvm_mnas.report.trials import (
    EMULATED,
    best_record,
    count_trials,
    count_unstable,
    is_emulated,
    worst_untuned_percent,
)
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord

_MOST_CANDIDATES = 500


def build_page(
    records: Sequence[TrialRecord],
    reward: Reward,
    config: SearchConfig,
    pictures: Sequence[Picture],
    *,
    title: str,
    best: int | None = None,
    manifest: Manifest | None = None,
    accuracy_notes: Sequence[str] = (),
) -> str:
    """Return the page: one HTML document with the `pictures` and everything else in it.

    `best` is a trial number; `manifest` the one of the exported network, None if there is none. `accuracy_notes` say
    how much the accuracies mean.
    """
    star = best_record(records, best)
    sections = (
        _best_section(star),
        _export_section(manifest),
        Section("Pictures", (Pictures(tuple(pictures)),)),
        _pareto_section(records),
        _accuracy_section(accuracy_notes),
        _failure_section(records),
        _effort_section(records),
        _provenance_section(records),
        _forecast_section(records),
        _configuration_section(config),
        _candidates_section(records),
    )
    page = PageContent(
        title=title,
        subtitle=(
            f"{config.algorithm} over the space {config.space}, data {config.data}, device "
            f"{config.device}; target {reward.target_latency_ms:g} ms, "
            f"alpha = {reward.alpha:g}, beta = {reward.beta:g}"
        ),
        warnings=tuple(_warnings(records)),
        tiles=tuple(_tiles(records, star, reward)),
        sections=tuple(section for section in sections if section is not None),
        footer=f"tvm-mnas {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    environment = Environment(
        loader=PackageLoader("tvm_mnas.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["data_url"] = _data_url
    style = files("tvm_mnas.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(page=page, style=style)


def _configuration_section(config: SearchConfig) -> Section:
    entries = ((name, Text(f"{value}", "code")) for name, value in asdict(config).items())
    return Section("Configuration", (make_pairs(entries),))


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


def _best_section(star: TrialRecord | None) -> Section | None:
    if star is None:
        return Section("Best candidate", (Paragraph("No candidate was measured yet."),))
    row = candidate_row(star)
    return Section(
        f"Best candidate: trial {star.number}",
        (
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
            ),
        ),
    )


def _export_section(manifest: Manifest | None) -> Section | None:
    """What the manifest of the exported network says."""
    if manifest is None:
        return None
    latency, artifact = manifest.latency, manifest.artifact
    share = latency.tuned_share
    entries = [
        ("accuracy, test split", f"{manifest.test.top1:.2%}"),
        ("images in the test split", f"{manifest.test.samples:,}"),
        ("accuracy, validation", f"{manifest.validation.top1:.2%}"),
        ("training steps", f"{manifest.validation.steps:,}"),
        (EMULATED if latency.emulated else "latency", show_ms(latency.latency_ms)),
        ("spread", f"{latency.spread:.1%}"),
        ("run time in tuned kernels", "unknown" if share is None else show_share(share)),
        (
            f"largest difference from {manifest.agreement.judge}",
            show_tiny(manifest.agreement.difference),
        ),
        ("size", f"{artifact.size_bytes / 1e6:.2f} MB"),
        ("kernels", f"{artifact.kernels:,}"),
        ("schedules measured for them", f"{artifact.schedules_measured:,}"),
        ("created", manifest.created),
        ("versions", ", ".join(f"{name} {text}" for name, text in manifest.versions.items())),
    ]
    return Section("Exported network", (make_pairs(entries),))


def _pareto_section(records: Sequence[TrialRecord]) -> Section | None:
    rows = pareto_rows(records)
    if not rows:
        return Section("Pareto front", (Paragraph("No candidate was measured yet."),))
    note = "No other candidate is both faster and more accurate. The fastest first."
    return Section("Pareto front", (Paragraph(note, "note"), _candidate_table(rows)))


def _candidates_section(records: Sequence[TrialRecord]) -> Section | None:
    rows = candidate_rows(records)
    if not rows:
        return None
    summary = f"All {len(rows):,} measured, the highest reward first"
    return Section("Candidates", (_candidate_table(rows, summary=summary),))


def _candidate_table(rows: Sequence[CandidateRow], *, summary: str = "") -> Table:
    untuned = (
        [
            Column(
                "of it untuned", "untuned_percent", lambda value: f"{format_percent(value or 0.0)}%"
            )
        ]
        if any(row.untuned_percent for row in rows)
        else []
    )
    columns = (
        Column("trial", "trial"),
        Column("accuracy", "accuracy_text"),
        Column(
            f"time ({EMULATED})" if any(row.emulated for row in rows) else "latency",
            "latency_ms",
            show_ms,
        ),
        *untuned,
        Column("spread (IQR)", "spread_text"),
        Column("reward", "reward", lambda value: f"{value:.4f}"),
        Column("parameters", "parameters", lambda value: f"{value:,}"),
        Column("mult-adds", "mult_adds", lambda value: f"{value:,}"),
        Column("architecture", "architecture", number=False, style="code"),
    )
    shown = [
        {**asdict(row), "accuracy_text": show_accuracy(row), "spread_text": show_spread(row)}
        for row in rows
    ]
    return make_table(columns, shown, most=_MOST_CANDIDATES, summary=summary)


def _accuracy_section(notes: Sequence[str]) -> Section | None:
    if not notes:
        return None
    return Section(
        "How much an accuracy means",
        tuple(Paragraph(f"{note[0].upper()}{note[1:]}.") for note in notes),
    )


def _failure_section(records: Sequence[TrialRecord]) -> Section | None:
    rows = failure_rows(records)
    if not rows:
        return Section("Failures", (Paragraph("No candidate failed."),))
    columns = (
        Column("stage", "stage", number=False),
        Column("candidates", "count"),
        Column("error", "error", number=False),
        Column("reason", "reason", number=False),
        Column("trials", "trials", show_trials, number=False),
    )
    note = (
        "A failed candidate has no reward. One that failed twice by its own fault teaches the controller the lowest "
        "reward of its batch."
    )
    return Section(
        "Failures", (Paragraph(note, "note"), make_table(columns, [asdict(row) for row in rows]))
    )


def _effort_section(records: Sequence[TrialRecord]) -> Section | None:
    summary = effort_summary(records)
    columns = (
        Column("stage", "stage", number=False),
        Column("in all", "total_s", show_seconds),
        Column("share", "share_percent", lambda value: f"{value:.0f}%"),
        Column("per candidate", "per_candidate_s", show_seconds),
    )
    reused = summary.kernels_reused_percent
    text = (
        f"{summary.kernels_tuned:,} kernels tuned with {summary.schedules_measured:,} measured "
        f"schedules: {summary.kernels_tuned_per_candidate:.2f} kernels per candidate"
    )
    if reused is not None:
        text += f"; {reused:.1f}% of the candidates' kernels had a record already"
    return Section(
        "Effort",
        (Paragraph(f"{text}."), make_table(columns, [asdict(row) for row in effort_rows(records)])),
    )


def _provenance_section(records: Sequence[TrialRecord]) -> Section | None:
    rows = provenance_rows(records)
    title = "How the latencies were measured"
    if not rows:
        return Section(title, (Paragraph("No latency was measured yet."),))
    parts: list[Part] = []
    if len(rows) > 1:
        warning = (
            f"The latencies were measured in {len(rows)} different ways and do not compare: "
            "device, fingerprint, target or version changed during the run."
        )
        parts.append(Paragraph(warning, "warning"))
    parts += [_provenance(row) for row in rows]
    return Section(title, tuple(parts))


def _provenance(row: ProvenanceRow) -> Pairs:
    spread = (
        f"median {row.median_spread_percent:.1f}%, worst {row.worst_spread_percent:.1f}%; "
        f"{row.noisy} beyond the bound of the device's profile"
    )
    first, last = row.measured_at
    values: list[tuple[str, str | Text]] = [
        ("device", row.device),
        ("fingerprint", Text(row.fingerprint, "code")),
        ("TVM target", Text(row.target, "code")),
        ("TVM version", row.tvm_version),
        ("method", row.method),
        ("latencies", f"{row.latencies:,}"),
        ("samples per latency", show_range(row.samples, "")),
        ("spread (IQR / median)", spread),
        ("schedules per tuned kernel", show_range(row.schedules_per_kernel, "")),
        ("run time in tuned kernels", show_range(row.tuned_share_percent, "%")),
        ("measured while the device changed", f"{row.unstable:,}"),
        ("reference kernel", show_range(row.reference_ms, " ms")),
        ("measured", first if first == last else f"{first} to {last}"),
    ]
    if len(row.by_device) > 1:
        each = ", ".join(f"{name} ({count:,})" for name, count in row.by_device.items())
        values.insert(1, ("devices of the farm", each))
    if row.emulated:
        values.insert(1, ("device kind", Text(EMULATED, "flag")))
    return make_pairs(values)


def _forecast_section(records: Sequence[TrialRecord]) -> Section | None:
    row = forecast_latency(records)
    if row is None:
        return None
    line = latency_forecast_line(row)
    return Section("Latency from kernel times", (Paragraph(f"{line[0].upper()}{line[1:]}."),))


def _data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
