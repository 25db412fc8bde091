"""A network in float32, float16 and bfloat16 on one core, timed in turn: what half the bytes are worth there.

    python benchmarks/half_precision.py                                  # MnasNet-B1 at 224, this machine
    python benchmarks/half_precision.py --device rpi5 --dtypes float16

Each is tuned from nothing, or from `--records`, and its outputs are compared with torch's in float32 before it counts.
A core that lacks arithmetic in a format converts for each step, which is slower than float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from networks import NOTATIONS, settled_network

if TYPE_CHECKING:
    from tvm_mnas.devices.core.latency import Latency

DTYPES = ("float16", "bfloat16")


def table(
    rounds: Mapping[str, Sequence[float]], differences: Mapping[str, float], *, beside: str
) -> str:
    """Return a markdown table of milliseconds by precision, one of each round, and the median ratio to `beside`.

    `differences` says how far each is from torch, in parts of how far outputs differ from image to image.
    """
    lines = [
        f"| computed in | median ms | x {beside} | difference |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, times in rounds.items():
        ratio = statistics.median(
            one / other for one, other in zip(times, rounds[beside], strict=True)
        )
        lines.append(
            f"| {name} | {statistics.median(times):.3f} | {ratio:.3f} | {differences[name]:.1e} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark and print its table; return the exit code."""
    from tvm_mnas.cores.precision import FLOAT32, precision_of
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.agreement import torch_judge
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NOTATIONS, default="mnasnet-b1")
    parser.add_argument("--device", default="local")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="set beside float32")
    parser.add_argument("--schedules-per-kernel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--records", default="", help="where records are kept; none: nowhere")
    arguments = parser.parse_args()
    profile = load_profile(arguments.device)
    network = settled_network(arguments.network)
    shape = network.architecture.image_shape
    asked = [precision_of(dtype, None) for dtype in arguments.dtypes.split(",")]
    with tempfile.TemporaryDirectory(prefix="half-precision-") as text:
        scratch = Path(text)
        options = ToolchainOptions(
            records=Path(arguments.records) if arguments.records else scratch / "records",
            schedules_per_kernel=arguments.schedules_per_kernel,
            seed=0,
        )
        artifacts, differences = [], {}
        for precision in (FLOAT32, *asked):
            computed = replace(profile, dtype=precision.dtype, accumulator=precision.accumulator)
            with open_toolchain(computed, options, logs=scratch, scratch=scratch) as toolchain:
                lowered = toolchain.lower(network, shape)
                toolchain.tune([lowered], on_progress=lambda done, total: None)
                artifact = toolchain.compile(lowered, scratch / f"{precision.dtype}.so")
                judge = torch_judge(network, batch_size=1)
                agreement = toolchain.check_network(artifact, judge, seed=0)
            artifacts.append(artifact)
            differences[str(precision)] = agreement.difference
        with open_toolchain(profile, options, logs=scratch, scratch=scratch) as toolchain:
            target = json.loads(toolchain.profile.target)
            found = toolchain.measure_in_turn(artifacts, rounds=arguments.rounds)
    rounds = {
        name: _milliseconds(latencies) for name, latencies in zip(differences, found, strict=True)
    }
    print(f"{arguments.network} at 224, batch 1, code for {target['mcpu']}")
    print(f"\n{table(rounds, differences, beside=str(FLOAT32))}")
    return 0


def _milliseconds(latencies: Sequence[Latency] | Exception) -> list[float]:
    if isinstance(latencies, Exception):
        raise latencies
    return [latency.latency_ms for latency in latencies]


if __name__ == "__main__":
    sys.exit(main())
