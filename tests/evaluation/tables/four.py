"""A table of four architectures, whose measurements are made up: for tests of what reads and searches it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.report.runs import make_accuracy, make_latency
from tvm_mnas.evaluation.tables.files import (
    ACCURACIES,
    KERNELS,
    LATENCIES,
    NETWORKS,
    accuracy_line,
    append_lines,
    checksums,
    device_of,
    latency_line,
    write_manifest,
)
from tvm_mnas.evaluation.tables.manifest import Spread, TableManifest
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import read_space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.workflows.table import architectures_of

SPACE = """
name = "four"
[input]
size = 16
channels = 3
classes = 10
[stem]
filters = 8
stride = 2
[head]
filters = 16
[choices]
conv_op = ["sepconv", "mbconv3"]
kernel_size = [3, 5]
skip_op = ["none"]
se_ratio = [0.0]
filter_scale = [1.0]
layer_delta = [0]
[[blocks]]
resolution = 8
stride = 2
filters = 8
layers = 1
"""
STEPS = (60, 240)


def write_space(directory: Path) -> SearchSpace:
    """Write the space's file to `directory` and return the space."""
    path = directory / "four.toml"
    path.write_text(SPACE)
    return read_space(path)


def write_table(
    directory: Path,
    space: SearchSpace,
    *,
    latency_ms: Callable[[int, Architecture], float] = lambda k, _: 0.01 * (k + 1),
    step: float = 0.1,
    budgets: tuple[int, ...] = STEPS,
) -> Path:
    """Write a whole table of `space` to the directory `four` below `directory`, and return it.

    Architecture k has the accuracies 0.5 + k x `step`, 0.01 more with the second seed and 0.15 more with the longer
    training. It takes `latency_ms` tuned, ten times that untuned, and 2% more in the second pass.
    """
    table = directory / "four"
    table.mkdir()
    architectures = architectures_of(space)
    for k, architecture in enumerate(architectures):
        notation, time_ms = architecture.notation, latency_ms(k, architecture)
        append_lines(table / NETWORKS, [{"architecture": notation, "calls": {"a": 1, "b": k + 1}}])
        for steps in budgets:
            for seed in range(2):
                top1 = 0.5 + step * k + 0.01 * seed + (0.15 if steps == STEPS[1] else 0.0)
                accuracy = replace(make_accuracy(round(top1, 6)), steps=steps, seed=seed)
                append_lines(table / ACCURACIES, [accuracy_line(notation, seed, accuracy)])
        for turn in range(2):
            for kind, factor in (("tuned", 1.0), ("untuned", 10.0)):
                latency = make_latency(time_ms * factor * (1.02 if turn else 1.0))
                append_lines(table / LATENCIES, [latency_line(notation, kind, turn, latency)])  # type: ignore[arg-type]
    (table / ACCURACIES).touch()
    for key, time in (("a", 2.0), ("b", 3.0)):
        values = {"key": key, "name": f"kernel {key}", "flops": 10, "moved_bytes": 100}
        append_lines(table / KERNELS, [values | {"tuned_us": time, "untuned_us": 10 * time}])
    finish(table, space, budgets=budgets)
    return table


def finish(table: Path, space: SearchSpace, *, budgets: tuple[int, ...] = STEPS) -> None:
    """Write the manifest of a table whose other files are there."""
    spread = Spread(mean=60.0, spread=3.0, noise=0.5, between=0.9)
    write_manifest(
        table,
        TableManifest(
            name="four",
            space=space.name,
            space_fingerprint=space.fingerprint,
            architectures=space.size,
            data="embedded",
            recipe="embedded",
            steps=budgets,
            seed=0,
            schedules_per_kernel=8,
            device=device_of(make_latency(0.01)),
            cpu="a core",
            timed=("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"),
            versions={"tvm-mnas": "0"},
            accuracy={str(steps): spread for steps in budgets},
            latency={"tuned": spread, "untuned": spread},
            files=checksums(table),
        ),
    )


def change_line(path: Path, number: int, **changes: object) -> None:
    """Change values of one line of a file of a table."""
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("\n".join(lines) + "\n")
