"""Every kernel of a network beside the least that its core could take for it: the share of the limit.

    python benchmarks/kernel_limits.py                            # MnasNet-B1 and MobileNetV2, this machine's core
    python benchmarks/kernel_limits.py --core haswell --json FILE # its code held to AVX2; the shares kept in FILE
    python benchmarks/kernel_limits.py --core haswell --before FILE

The limit is the roofline's: a kernel's arithmetic at the most that the core was seen to do, or its memory at the
bandwidth that was seen, whichever takes longer. Time is that of the records, with the weights beyond the caches. The
means are weighted by time: what all kernels of a kind could take at least, divided by what they take. A depthwise
kernel may come out above 1, because its arithmetic counts the zeros around the image, which it passes over.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from networks import NOTATIONS, settled_network

if TYPE_CHECKING:
    from tvm_mnas.devices.core.profile import DeviceProfile

KINDS = ("pointwise", "depthwise", "several in one", "other")
NETWORKS = ("mnasnet-b1", "mobilenet-v2")


@dataclass(frozen=True, slots=True)
class Row:
    """A kernel: its calls in one inference, and one call's time and least time in microseconds."""

    name: str
    calls: int
    time_us: float
    limit_us: float

    @property
    def kind(self) -> str:
        """One of `KINDS`, by the shape of its weights (1x1xIxO, KxKx1xC)."""
        operation, *shapes = self.name.split()
        if operation.count("conv2d") + operation.count("matmul") > 1:
            return "several in one"
        sides = shapes[-1].split("x") if shapes else []
        if not operation.startswith("conv2d") or len(sides) != 4:
            return "other"
        if sides[:2] == ["1", "1"]:
            return "pointwise"
        return "depthwise" if sides[2] == "1" else "other"


def share(rows: Sequence[Row], kind: str) -> float | None:
    """Return the least that the kernels of `kind` could take, divided by what they take; None without any."""
    chosen = [row for row in rows if row.kind == kind]
    taken_us = sum(row.calls * row.time_us for row in chosen)
    return sum(row.calls * row.limit_us for row in chosen) / taken_us if chosen else None


def table(rows: Sequence[Row], before: Mapping[str, Row]) -> str:
    """Return the kernels as a markdown table, those that take longest first; `before` has former ones by name."""
    ordered = sorted(rows, key=lambda row: -row.calls * row.time_us)
    lines = [
        "| kernel | calls | us a call | of the limit | before |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in ordered:
        former = before.get(row.name)
        was = "-" if former is None else f"{former.limit_us / former.time_us:.0%}"
        lines.append(
            f"| {row.name} | {row.calls} | {row.time_us:.1f} | {row.limit_us / row.time_us:.0%} | {was} |"
        )
    for kind in KINDS:
        now, was_share = share(rows, kind), share(list(before.values()), kind)
        if now is not None:
            was = "-" if was_share is None else f"{was_share:.1%}"
            lines.append(f"| **{kind}, by time** | | | **{now:.1%}** | {was} |")
    was = f"{_total_ms(list(before.values())):.3f}" if before else "-"
    lines.append(f"| **all, ms** | | {_total_ms(rows):.3f} | | {was} |")
    return "\n".join(lines)


def _total_ms(rows: Sequence[Row]) -> float:
    return sum(row.calls * row.time_us for row in rows) / 1e3


def profile_of(core: str) -> DeviceProfile:
    """Return this machine, with code for `core` if one is named."""
    from tvm_mnas.devices.core.profile import load_profile

    profile = load_profile("local")
    if not core:
        return profile
    target = {**json.loads(profile.target), "mcpu": core}
    # Detected features would bring back what the core is held to do without.
    target.pop("mattr", None)
    return replace(profile, key=f"local-{core}", target=json.dumps(target))


def measure(names: Sequence[str], arguments: argparse.Namespace) -> dict[str, list[Row]]:
    """Return the kernels of each network, tuned where they have no records, and print what was measured."""
    from tvm_mnas.evaluation.roofline import measure_peak
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    found: dict[str, list[Row]] = {}
    profile = profile_of(arguments.core)
    with tempfile.TemporaryDirectory(prefix="kernel-limits-") as text:
        directory = Path(text)
        options = ToolchainOptions(
            records=Path(arguments.records or directory / "records"),
            schedules_per_kernel=arguments.schedules_per_kernel,
            seed=0,
            with_shipped=False,
        )
        with open_toolchain(profile, options, logs=directory, scratch=directory) as toolchain:
            peak = measure_peak(toolchain, directory)
            print(f"{profile.target}: at most {peak.flops_per_s / 1e9:.1f} GFLOP/s")
            for name in names:
                network = settled_network(name)
                lowered = toolchain.lower(network, network.architecture.image_shape)
                toolchain.tune([lowered], on_progress=lambda done, total: None)
                rows = []
                for kernel in lowered.kernels:
                    time_us = toolchain.store.best_us(kernel.key)
                    assert time_us is not None
                    limit_us = peak.limit_us(kernel.flops, kernel.moved_bytes)
                    rows.append(Row(kernel.name, kernel.calls, time_us, limit_us))
                found[name] = rows
    return found


def main() -> int:
    """Run the benchmark and print its tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument(
        "--core", default="", help="what LLVM calls a core whose code this one runs"
    )
    parser.add_argument("--schedules-per-kernel", type=int, default=16)
    parser.add_argument("--records", default="", help="where records are kept; none: nowhere")
    parser.add_argument("--json", default="", help="a file that takes the kernels")
    parser.add_argument("--before", default="", help="such a file, of former code")
    arguments = parser.parse_args()
    names = arguments.networks.split(",")
    for name in names:
        if name not in NOTATIONS:
            parser.error(f"a network is one of {', '.join(NOTATIONS)}, not {name!r}")
    former = json.loads(Path(arguments.before).read_text()) if arguments.before else {}
    found = measure(names, arguments)
    for name, rows in found.items():
        before = {one["name"]: Row(**one) for one in former.get(name, [])}
        print(
            f"\n{name}, {arguments.schedules_per_kernel} schedules a kernel:\n\n{table(rows, before)}"
        )
    if arguments.json:
        values = {name: [asdict(row) for row in rows] for name, rows in found.items()}
        Path(arguments.json).write_text(json.dumps(values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
