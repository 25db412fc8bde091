"""The instructions of one inference on 64-bit ARM, counted in an emulator: how much work our code is there.

    python benchmarks/arm_instructions.py                              # MnasNet-B1 and MobileNetV2, two cores
    python benchmarks/arm_instructions.py --schedules-per-kernel 32 --networks mnasnet-b1 --cores cortex-a76
    python benchmarks/arm_instructions.py --dtype float16 --alone      # beside float32, on the cores that have it

It needs what `make arm-tools` brings, and for ONNX Runtime beside ours (`arm_rival.py`) apt-get and pip. Kernels are
tuned from nothing, or from `--records`, by their instructions. The counts are the same on any machine and say nothing
about the time of one; each network's outputs are compared with torch's first. The floor of a kernel is its
multiply-adds in full vectors and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from arm_rival import count_rival
from networks import NOTATIONS, settled_network

from tvm_mnas.cores.precision import DTYPES, FLOAT32, Precision, precision_of

if TYPE_CHECKING:
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.farm.instructions import InstructionCounts

CORES = ("cortex-a72", "cortex-a76")
WORST = 10


def profile_of(core: str, precision: Precision = FLOAT32) -> DeviceProfile:
    """Return the emulated device with code for `core`, its networks in `precision`."""
    from tvm_mnas.devices.core.profile import load_profile

    profile = load_profile("emulated-aarch64")
    target = json.loads(profile.target)
    # Vectors of unknown length are nothing that schedules are made for.
    target |= {"mcpu": core, "mattr": [*target["mattr"], "-sve", "-sve2"]}
    return replace(
        profile,
        key=f"emulated-{core}",
        target=json.dumps(target),
        dtype=precision.dtype,
        accumulator=precision.accumulator,
    )


def lanes_of(core: str, precision: Precision) -> int:
    """Return how many multiply-adds one instruction of `core` does in `precision`."""
    from tvm_mnas.compiler.core.dots import TERMS
    from tvm_mnas.compiler.core.target import core_dots, core_model

    target = profile_of(core).target
    if precision.dtype == "bfloat16":
        dots = core_dots(target)
        return max((TERMS * lanes for lanes in dots), default=core_model(target).lanes)
    return core_model(target, dtype=precision.accumulator).lanes


def count(
    name: str,
    core: str,
    precision: Precision,
    *,
    records: Path,
    schedules_per_kernel: int,
    uniform: bool,
) -> tuple[InstructionCounts, list[tuple[str, int, int, int]]]:
    """Return the instructions of the network `name`, and of each kernel: name, calls, instructions of all, floor."""
    from tvm_mnas.devices.farm.instructions import ORDER_S
    from tvm_mnas.devices.farm.timing import NetworkFile, count_instructions
    from tvm_mnas.evaluation.agreement import torch_judge
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    network = settled_network(name)
    shape = network.architecture.image_shape
    options = ToolchainOptions(records=records, schedules_per_kernel=schedules_per_kernel, seed=0)
    with tempfile.TemporaryDirectory(prefix="arm-instructions-") as text:
        directory = Path(text)
        with open_toolchain(
            profile_of(core, precision), options, logs=directory, scratch=directory
        ) as toolchain:
            lowered = toolchain.lower(network, shape)
            toolchain.tune(
                [lowered], on_progress=lambda done, total: None, by_importance=not uniform
            )
            artifact = toolchain.compile(lowered, directory / "net.so")
            toolchain.check_network(artifact, torch_judge(network, batch_size=1), seed=0)
            counts = count_instructions(
                NetworkFile(path=artifact.path, input_shape=artifact.input_shape), toolchain.farm
            )
            lanes = lanes_of(core, precision)
            kernels = []
            for kernel in lowered.kernels:
                best_us = toolchain.store.best_us(kernel.key)
                assert best_us is not None
                instructions = round(best_us * 1e-6 / ORDER_S)
                floor = kernel.flops // 2 // lanes
                kernels.append(
                    (kernel.name, kernel.calls, kernel.calls * instructions, kernel.calls * floor)
                )
    return counts, kernels


def network_table(rows: Sequence[tuple[str, str, InstructionCounts, int | None]]) -> str:
    """Return the counts of networks as a markdown table, in millions."""
    from tvm_mnas.devices.farm.instructions import CLASSES

    names = [name.replace("_", " ") for name in CLASSES]
    lines = [
        f"| network | code for | {' | '.join(names)} | floor |",
        "| --- | --- |" + " ---: |" * (len(CLASSES) + 1),
    ]
    for name, core, counts, floor in rows:
        cells = " | ".join(f"{getattr(counts, one) / 1e6:.1f}" for one in CLASSES)
        least = "-" if floor is None else f"{floor / 1e6:.1f}"
        lines.append(f"| {name} | {core} | {cells} | {least} |")
    return "\n".join(lines)


def kernel_table(kernels: Sequence[tuple[str, int, int, int]]) -> str:
    """Return the kernels that are furthest from their floor, in millions of instructions over all their calls."""
    worst = sorted(kernels, key=lambda kernel: kernel[3] - kernel[2])[:WORST]
    lines = ["| kernel | calls | instructions | floor |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {calls} | {total / 1e6:.2f} | {floor / 1e6:.2f} |"
        for name, calls, total, floor in worst
    ]
    return "\n".join(lines)


def half_line(
    name: str, core: str, dtype: str, half: InstructionCounts, whole: InstructionCounts
) -> str:
    """Return how the instructions in `dtype`, of half the size, compare with those in float32."""
    return (
        f"{name}, {core}: {dtype} takes {half.all / 1e6:.1f} M instructions, "
        f"{half.all / whole.all:.2f} of float32's {whole.all / 1e6:.1f} M"
    )


def main() -> int:
    """Run the benchmark and print its tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NOTATIONS))
    parser.add_argument("--cores", default=",".join(CORES), help="what LLVM calls them")
    parser.add_argument("--schedules-per-kernel", type=int, default=16)
    parser.add_argument(
        "--by-importance", action="store_true", help="share the schedules as a search does"
    )
    parser.add_argument("--records", default="", help="where records are kept; none: nowhere")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--accumulator", choices=DTYPES, help="of sums; as --dtype if not given, or float32"
    )
    parser.add_argument("--alone", action="store_true", help="without ONNX Runtime")
    arguments = parser.parse_args()
    asked = precision_of(arguments.dtype, arguments.accumulator)
    rows: list[tuple[str, str, InstructionCounts, int | None]] = []
    halves: list[str] = []
    with tempfile.TemporaryDirectory(prefix="arm-records-") as scratch:
        for core in arguments.cores.split(","):
            # Float16 summed in float32 takes as many instructions, on cores that have its arithmetic.
            full = precision_of(arguments.dtype, None)
            if asked != FLOAT32 and lanes_of(core, full) == lanes_of(core, FLOAT32):
                halves.append(f"{core} has no arithmetic in {arguments.dtype}: left out")
                continue
            for name in arguments.networks.split(","):
                found: list[InstructionCounts] = []
                for precision in dict.fromkeys((FLOAT32, asked)):
                    counts, kernels = count(
                        name,
                        core,
                        precision,
                        records=Path(arguments.records or scratch),
                        schedules_per_kernel=arguments.schedules_per_kernel,
                        uniform=not arguments.by_importance,
                    )
                    found.append(counts)
                    code = core if precision == FLOAT32 else f"{core} in {precision}"
                    rows.append((name, code, counts, sum(kernel[3] for kernel in kernels)))
                    print(f"\n{name}, {code}: the kernels furthest from their floor, in millions")
                    print(f"\n{kernel_table(kernels)}", flush=True)
                if asked != FLOAT32:
                    halves.append(half_line(name, core, asked.dtype, found[1], found[0]))
        for name in () if arguments.alone else arguments.networks.split(","):
            try:
                version, rival = count_rival(name, Path(scratch))
            except RuntimeError as error:
                print(f"\nONNX Runtime on {name}: {error}")
            else:
                rows.append((name, f"ONNX Runtime {version}", rival, None))
    print(f"\nOne inference, {arguments.schedules_per_kernel} schedules a kernel, in millions:\n")
    print(network_table(rows))
    print("".join(f"\n{line}" for line in halves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
