"""`tvm-mnas paper`: the paper's tables, its figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tvm_mnas.commands.bench import print_failures, time_networks
from tvm_mnas.commands.options import (
    DEFAULTS,
    AsJson,
    Device,
    Records,
    Rounds,
    Seed,
    Trials,
    toolchain_options,
)
from tvm_mnas.commands.paper.figures import figure2, figure4, figure5, figure6
from tvm_mnas.commands.paper.thesis import thesis
from tvm_mnas.console import OUTPUT, Column, SearchDisplay, format_count, print_json, print_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.models.zoo.entry import ZooEntry
    from tvm_mnas.paper.checkpoints import CheckpointAccuracy
    from tvm_mnas.paper.tables import ComparisonRow, PaperRow
    from tvm_mnas.workflows.compare import ModelTiming
    from tvm_mnas.workflows.model_ref import ModelRef

paper_app = typer.Typer(
    no_args_is_help=True,
    help="The paper's tables and figures again: what it printed, and what is counted and measured here.",
)

_Network = TypeVar("_Network")

_Only = Annotated[
    list[str] | None, typer.Option(help="Only this network, by its key; may be given again.")
]
_CountsOnly = Annotated[
    bool, typer.Option("--counts-only", help="Time nothing; needs neither a device nor TVM.")
]
_Checkpoint = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=FILE",
        help="Trained weights of a network, as safetensors, whose top-1 to measure; may be given again.",
    ),
]
_CheckpointData = Annotated[
    str | None,
    typer.Option(help="Images to measure checkpoints on: imagenet:PATH with PATH/train and /val."),
]


@paper_app.command()
def table1(
    device: Device = "local",
    only: _Only = None,
    counts_only: _CountsOnly = False,
    checkpoint: _Checkpoint = None,
    data: _CheckpointData = None,
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Classification on ImageNet: parameters, mult-adds, and latency relative to MobileNetV2."""
    from tvm_mnas.models.zoo.registry import ZOO
    from tvm_mnas.workflows.model_ref import resolve_model

    rows = _zoo_rows(ZOO, only)
    models = [resolve_model(row.key) for row in rows]
    accuracies = _accuracies(models, checkpoint or [], data)
    options = toolchain_options(
        records=records, schedules_per_kernel=schedules_per_kernel, seed=seed
    )
    timed = [] if counts_only else time_networks(models, options, device=device, rounds=rounds)
    _print_table(
        "Table 1", "top-1 %", rows, timed, accuracies, baseline="mobilenet-v2", as_json=as_json
    )


@paper_app.command()
def table2(
    device: Device = "local",
    only: _Only = None,
    counts_only: _CountsOnly = False,
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Detection on COCO, boxes out of an image: counts, and latency relative to MobileNetV2 + SSDLite."""
    from tvm_mnas.models.zoo.detectors import DETECTORS
    from tvm_mnas.workflows.model_ref import RAW, resolve_model

    rows = _zoo_rows(DETECTORS, only)
    # Each detector beside itself without decoding and suppression, so that a slow minute falls on both.
    models = [resolve_model(row.key + end) for row in rows for end in ("", RAW)]
    options = toolchain_options(
        records=records, schedules_per_kernel=schedules_per_kernel, seed=seed
    )
    timed = [] if counts_only else time_networks(models, options, device=device, rounds=rounds)
    _print_table(
        "Table 2",
        "mAP %",
        rows,
        timed[::2],
        {},
        baseline="mobilenet-v2-ssdlite",
        as_json=as_json,
        raw=timed[1::2],
    )


@paper_app.command()
def table3(
    device: Device = "local",
    only: _Only = None,
    counts_only: _CountsOnly = False,
    checkpoint: _Checkpoint = None,
    data: _CheckpointData = None,
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """MnasNet and its variants of one kind of layer: latency relative to MnasNet."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.models.zoo.variants import table_3
    from tvm_mnas.paper.tables import PaperRow
    from tvm_mnas.workflows.model_ref import ModelRef

    variants = _chosen({variant.key: variant for variant in table_3()}, only)
    rows = [
        PaperRow(
            key=variant.key,
            name=variant.name,
            cost=count_cost(variant.architecture),
            accuracy_percent=variant.published_top1_percent,
            latency_ms=variant.published_latency_ms,
        )
        for variant in variants
    ]
    models = [ModelRef(name=variant.key, architecture=variant.architecture) for variant in variants]
    accuracies = _accuracies(models, checkpoint or [], data)
    options = toolchain_options(
        records=records, schedules_per_kernel=schedules_per_kernel, seed=seed
    )
    timed = [] if counts_only else time_networks(models, options, device=device, rounds=rounds)
    _print_table("Table 3", "top-1 %", rows, timed, accuracies, baseline="mnasnet", as_json=as_json)


@paper_app.command()
def layers(
    device: Device = "local",
    schedules_per_kernel: Trials = 32,
    rounds: Rounds = 5,
    records: Records = DEFAULTS.records,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Equations 5 and 6: one 5x5 against two 3x3 depthwise separable convolutions, tuned and untuned."""
    from tvm_mnas.paper.separable import SHAPES, compare_layers
    from tvm_mnas.paper.tables import provenance

    with SearchDisplay() as display:
        pairs, timed = compare_layers(
            SHAPES,
            toolchain_options(
                records=records,
                schedules_per_kernel=schedules_per_kernel,
                seed=seed,
            ),
            device=device,
            rounds=rounds,
            observer=display,
        )
    rows = [pair.to_json() for pair in pairs]
    if as_json:
        print_json({"layers": rows, "networks": [entry.to_json() for entry in timed]})
        return
    columns = (
        Column("H x W x C", "shape", number=False),
        Column("mult-adds 5x5", "mult_adds_5x5"),
        Column("two 3x3", "mult_adds_two_3x3"),
        Column("ratio", "mult_adds_ratio"),
        Column("tuned us 5x5", "tuned_us_5x5"),
        Column("two 3x3", "tuned_us_two_3x3"),
        Column("ratio", "tuned_us_ratio"),
        Column("untuned us 5x5", "untuned_us_5x5"),
        Column("two 3x3", "untuned_us_two_3x3"),
        Column("ratio", "untuned_us_ratio"),
    )
    counts = ("mult_adds_5x5", "mult_adds_two_3x3")
    shown = [row | {name: format_count(row[name]) for name in counts} for row in rows]
    print_table("One 5x5 against two 3x3", columns, shown, as_json=False)
    OUTPUT.print(provenance(timed), markup=False)
    print_failures([(entry.name, entry.failure) for entry in timed])


for _figure in (figure2, figure4, figure5, figure6, thesis):
    paper_app.command()(_figure)


def _zoo_rows(entries: Sequence[ZooEntry], only: list[str] | None) -> list[PaperRow]:
    from tvm_mnas.paper.tables import PaperRow

    published = {entry.key: entry for entry in entries if entry.published is not None}
    return [
        PaperRow(
            key=entry.key,
            name=entry.name,
            cost=entry.cost,
            parameters=entry.published.parameters,
            mult_adds=entry.published.mult_adds,
            accuracy_percent=entry.published.accuracy_percent,
            latency_ms=entry.published.pixel_latency_ms,
            deviation=entry.deviation,
        )
        for entry in _chosen(published, only)
        if entry.published is not None
    ]


def _chosen(networks: Mapping[str, _Network], only: list[str] | None) -> list[_Network]:
    unknown = [key for key in only or [] if key not in networks]
    if unknown:
        raise ConfigError(
            f"--only takes a network of the table, not {unknown[0]!r}; it has {', '.join(networks)}"
        )
    return [network for key, network in networks.items() if not only or key in only]


def _accuracies(
    models: Sequence[ModelRef], texts: Sequence[str], data: str | None
) -> dict[str, CheckpointAccuracy]:
    from tvm_mnas.paper.checkpoints import measure_checkpoints, parse_checkpoints

    files = parse_checkpoints(texts, [model.name for model in models], data)
    if data is None or not files:
        return {}
    with SearchDisplay() as display:
        return measure_checkpoints(models, files, data, observer=display)


def _print_table(
    title: str,
    accuracy: str,
    rows: Sequence[PaperRow],
    timed: Sequence[ModelTiming],
    accuracies: Mapping[str, CheckpointAccuracy],
    *,
    baseline: str,
    as_json: bool,
    raw: Sequence[ModelTiming] = (),
) -> None:
    from tvm_mnas.paper.tables import comparison_rows, provenance

    values = comparison_rows(rows, timed, accuracies=accuracies, baseline=baseline, raw=raw)
    if as_json:
        print_json([row.to_json() for row in values])
        return
    columns = [
        Column("network", "network", number=False),
        Column("params", "parameters"),
        Column("mult-adds", "mult_adds"),
        Column(accuracy, "accuracy"),
        Column("Pixel 1 ms", "pixel"),
    ]
    if timed:
        emulated = any(entry.emulated for entry in timed)
        columns += [
            Column("EMULATED ms" if emulated else "ms", "latency_ms"),
            Column("relative", "relative"),
            Column("here/paper", "agreement"),
        ]
    if raw:
        columns += [Column("predictions ms", "raw_latency_ms"), Column("boxes %", "boxes_percent")]
    print_table(f"{title}: here (paper)", columns, [_shown(row) for row in values], as_json=False)
    if timed:
        OUTPUT.print(f"relative to {baseline}; {provenance(timed)}", markup=False)
        print_failures([(entry.name, entry.failure) for entry in (*timed, *raw)])
    if raw:
        OUTPUT.print(
            "ms are of boxes out of an image; predictions ms are without decoding and suppression, which take boxes %.",
            markup=False,
        )
    for key, measured in accuracies.items():
        OUTPUT.print(f"{key}: {measured}", markup=False)
    OUTPUT.print(
        "What is in parentheses is the paper's, measured on a Pixel 1; nothing was trained here.",
        markup=False,
    )
    for row in values:
        if row.deviation:
            OUTPUT.print(f"{row.network}: {row.deviation}", markup=False)


def _shown(row: ComparisonRow) -> dict[str, object]:
    """Return a row as it is printed: ours, and in parentheses what the paper has."""

    def both(ours: str | None, theirs: str | None) -> str:
        return f"{ours or '-'} ({theirs or '-'})"

    def count(number: int | None) -> str | None:
        return None if number is None else format_count(number)

    def ratio(value: float | None) -> str | None:
        return None if value is None else f"{value:.2f}"

    accuracy, published = row.accuracy_percent, f"{row.published_accuracy_percent:.4g}"
    return {
        "network": row.network,
        "parameters": both(count(row.parameters), count(row.published_parameters)),
        "mult_adds": both(count(row.mult_adds), count(row.published_mult_adds)),
        "accuracy": f"({published})" if accuracy is None else f"{accuracy:.4g} ({published})",
        "pixel": f"({row.published_latency_ms or '-'})",
        "latency_ms": row.latency_ms,
        "relative": both(ratio(row.relative), ratio(row.published_relative)),
        "agreement": ratio(row.agreement),
        "raw_latency_ms": row.raw_latency_ms,
        "boxes_percent": None if row.boxes_share is None else f"{row.boxes_share:.1%}",
    }
