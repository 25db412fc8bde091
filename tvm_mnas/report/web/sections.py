"""The parts of the page below its pictures: costs, failures, how everything was measured, and the export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from tvm_mnas.evaluation.manifest import Manifest
from tvm_mnas.report.rows import (
    ProvenanceRow,
    effort_rows,
    effort_summary,
    failure_rows,
    forecast_latency,
    provenance_rows,
)
from tvm_mnas.report.text import latency_forecast_line
from tvm_mnas.report.trials import EMULATED
from tvm_mnas.report.web.cells import (
    show_ms,
    show_range,
    show_seconds,
    show_share,
    show_tiny,
    show_trials,
)
from tvm_mnas.report.web.charts import costs_svg
from tvm_mnas.report.web.content import (
    Column,
    Figure,
    Pairs,
    Paragraph,
    Part,
    Section,
    Text,
    make_pairs,
    make_table,
)
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION

_LEAST_FORECAST = 8
"""A forecast that follows from fewer candidates is not shown."""


def export_section(manifest: Manifest | None) -> Section | None:
    """What the manifest of the exported network says."""
    if manifest is None:
        return None
    latency, artifact = manifest.latency, manifest.artifact
    share = latency.tuned_share
    metric = "mAP" if manifest.test.metric == MEAN_AVERAGE_PRECISION else "accuracy"
    entries = [
        (f"{metric}, test split", f"{manifest.test.top1:.2%}"),
        ("images in the test split", f"{manifest.test.samples:,}"),
        (f"{metric}, validation", f"{manifest.validation.top1:.2%}"),
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
    return Section("Exported network", (make_pairs(entries, summary="What its manifest says"),))


def accuracy_section(notes: Sequence[str]) -> Section | None:
    """Return what is to be said of the accuracies, None where that is nothing."""
    if not notes:
        return None
    return Section(
        "How much an accuracy means",
        tuple(Paragraph(f"{note[0].upper()}{note[1:]}.") for note in notes),
    )


def failure_section(records: Sequence[TrialRecord]) -> Section | None:
    """Return who failed, where and why."""
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


def effort_section(records: Sequence[TrialRecord]) -> Section | None:
    """Return what the search cost, by stage, and how often records spared a tuning."""
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
    parts: list[Part] = [Paragraph(f"{text}.")]
    if (svg := costs_svg(records)) is not None:
        parts.append(Figure(svg, "Time that each stage took, by the candidates' own accounts."))
    table = make_table(columns, [asdict(row) for row in effort_rows(records)])
    return Section("What it cost", (*parts, table))


def provenance_section(records: Sequence[TrialRecord]) -> Section | None:
    """Return how the latencies were measured, each way apart."""
    rows = provenance_rows(records)
    title = "How the latencies were measured"
    if not rows:
        return Section(title, (Paragraph("No latency was measured yet."),))
    parts: list[Part] = []
    if len(rows) > 1:
        warning = (
            f"The latencies were measured in {len(rows)} different ways and do not compare: "
            "device, fingerprint, target, precision or version changed during the run."
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
        ("computed in", row.precision),
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


def forecast_section(records: Sequence[TrialRecord]) -> Section | None:
    """Return how well latencies follow from kernels' times, None where that cannot be told."""
    row = forecast_latency(records)
    # Of a few candidates, or where the kernels' times had no say, it tells nothing.
    if row is None or row.candidates < _LEAST_FORECAST or not row.predictor.kernels_factor:
        return None
    line = latency_forecast_line(row)
    return Section("Latency from kernel times", (Paragraph(f"{line[0].upper()}{line[1:]}."),))
