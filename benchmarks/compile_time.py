"""From a network's notation to its measured latency with all records there: where the time goes.

    python benchmarks/compile_time.py                      # MnasNet-B1 at 224, 7 repetitions
    python benchmarks/compile_time.py --repetitions 15 --records tuning_logs

One warm process does it again and again, as a search does for candidate after candidate; the first repetition is
shown apart, the median is that of the others. Kernels without records are tuned before, outside of what is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from networks import NOTATIONS

if TYPE_CHECKING:
    from tvm_mnas.evaluation.toolchain import Toolchain

STAGES = ("build network", "lower", "compile", "upload and check", "measure")

_Result = TypeVar("_Result")


class Stopwatch:
    """Times the stages of one repetition, in seconds."""

    def __init__(self) -> None:
        self.times_s: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], _Result]) -> _Result:
        """Return what `work` returns, and remember how long it took."""
        started = time.perf_counter()
        result = work()
        self.times_s[stage] = time.perf_counter() - started
        return result


def repeat(notation: str, toolchain: Toolchain, path: Path, *, seed: int) -> dict[str, float]:
    """Go from `notation` to a latency once; return the seconds of each stage."""
    from tvm_mnas.evaluation.agreement import Judge, check_images, torch_judge
    from tvm_mnas.models.network import build_network
    from tvm_mnas.space.architecture import Architecture

    watch = Stopwatch()
    architecture = Architecture.parse(notation)
    shape = architecture.image_shape
    # What it is compared with is torch's time, not ours.
    network = watch.time("build network", lambda: build_network(architecture, seed=seed))
    images = check_images(shape, "float32", seed=seed)
    expected = torch_judge(network, batch_size=1).outputs(images)
    judge = Judge(name="torch", outputs=lambda _: expected)
    lowered = watch.time("lower", lambda: toolchain.lower(network, shape))
    artifact = watch.time("compile", lambda: toolchain.compile(lowered, path))
    watch.time("upload and check", lambda: toolchain.check(artifact, judge, images))
    watch.time("measure", lambda: toolchain.measure(artifact))
    return watch.times_s


def table(times: Sequence[dict[str, float]], first: dict[str, float]) -> str:
    """Return a markdown table: the first repetition, then median and extremes of the others."""
    totals = [{**one, "in all": sum(one.values())} for one in times]
    start = {**first, "in all": sum(first.values())}
    lines = [
        "| stage | median s | least s | most s | first time s |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for stage in (*STAGES, "in all"):
        values = [one[stage] for one in totals]
        lines.append(
            f"| {stage} | {statistics.median(values):.3f} | {min(values):.3f} | "
            f"{max(values):.3f} | {start[stage]:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark and print its table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=sorted(NOTATIONS), default="mnasnet-b1")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--records", default="tuning_logs", help="where tuning records are kept")
    parser.add_argument("--schedules-per-kernel", type=int, default=8, help="where records lack")
    parser.add_argument("--device", default="local")
    parser.add_argument("--json", action="store_true", help="print the seconds as JSON")
    arguments = parser.parse_args()
    if arguments.repetitions < 1:
        parser.error(f"repetitions are 1 or more, not {arguments.repetitions}")

    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
    from tvm_mnas.models.network import build_network
    from tvm_mnas.space.architecture import Architecture

    notation = NOTATIONS[arguments.network]
    with (
        tempfile.TemporaryDirectory(prefix="compile-time-") as text,
        open_toolchain(
            load_profile(arguments.device),
            ToolchainOptions(
                records=Path(arguments.records),
                schedules_per_kernel=arguments.schedules_per_kernel,
                seed=0,
            ),
            logs=Path(text),
            scratch=Path(text),
        ) as toolchain,
    ):
        architecture = Architecture.parse(notation)
        lowered = toolchain.lower(build_network(architecture), architecture.image_shape)
        missing = len(toolchain.missing(lowered))
        toolchain.tune([lowered], on_progress=lambda done, total: None)
        print(
            f"{arguments.network} on {arguments.device}: {len(lowered.kernels)} kernels, {missing} of "
            f"them tuned before; then {arguments.repetitions} repetitions in one process\n",
            flush=True,
        )
        first, *times = (
            repeat(notation, toolchain, Path(text) / f"{number}.so", seed=number)
            for number in range(arguments.repetitions + 1)
        )
    if arguments.json:
        print(json.dumps({"first_s": first, "times_s": times}))
    else:
        print(table(times, first))
    return 0


if __name__ == "__main__":
    sys.exit(main())
