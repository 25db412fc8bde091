"""What a candidate costs: the first ones pay for tuning their kernels, later ones find them tuned.

    python benchmarks/candidates.py                             # 100 candidates of the paper's space at 224: hours
    python benchmarks/candidates.py --candidates 20 --size 96 --trials-per-kernel 8

Candidates are drawn uniformly and go one after the other from notation to measured latency, without training. The
records begin empty, unless --records names a directory to keep them in.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_mnas.search.workbench import Workbench
    from tvm_mnas.space.architecture import Architecture

ENDS = 10
"""How many candidates count as the first, and as the last."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one candidate took: its kernels, those tuned for it, seconds by part; no latency if it failed."""

    architecture: str
    kernels: int
    tuned: int
    schedules: int
    tuning_s: float
    other_s: float
    latency_ms: float | None
    failure: str | None = None

    @property
    def in_all_s(self) -> float:
        """Seconds from the notation to the latency."""
        return self.tuning_s + self.other_s


def draw(space: str, *, candidates: int, size: int, seed: int) -> list[Architecture]:
    """Return different architectures of `space`, drawn uniformly from `seed`, their input of `size` pixels.

    Raises:
        SpaceError: if there is no such space, or an input of this size is too small for its strides.
    """
    from tvm_mnas.space.files import load_space

    chosen = load_space(space)
    generator = random.Random(seed)
    drawn: dict[str, Architecture] = {}
    # A space may be smaller than the sample; then this ends with what there is.
    for _ in range(100 * candidates):
        if len(drawn) == candidates:
            break
        architecture = replace(chosen.decode(chosen.sample(generator)), input_size=size)
        drawn.setdefault(architecture.id, architecture)
    return list(drawn.values())


def evaluate(architecture: Architecture, workbench: Workbench, path: Path) -> tuple[Cost, set[str]]:
    """Return what `architecture` took up to its latency, and the keys of its kernels."""
    from tvm_mnas.errors import CandidateError
    from tvm_mnas.models.network import build_network
    from tvm_mnas.search.pipeline import input_shape

    started = time.perf_counter()
    cost = Cost(architecture.notation, 0, 0, 0, 0.0, 0.0, None)
    keys: set[str] = set()
    try:
        shape = input_shape(architecture)
        lowered = workbench.lower(build_network(architecture).eval(), shape)
        keys = {kernel.key for kernel in lowered.kernels}
        report = workbench.tune([lowered], on_progress=lambda done, total: None)
        cost = replace(
            cost,
            kernels=len(keys),
            tuned=len(report.kernels),
            schedules=sum(kernel.trials for kernel in report.kernels),
            tuning_s=report.duration_s,
        )
        latency = workbench.measure(workbench.compile(lowered, path), shape)
        cost = replace(cost, latency_ms=latency.latency_ms)
    except CandidateError as error:
        cost = replace(cost, failure=str(error))
    finally:
        path.unlink(missing_ok=True)
    return replace(cost, other_s=time.perf_counter() - started - cost.tuning_s), keys


def table(costs: Sequence[Cost]) -> str:
    """Return a markdown table: the first candidates, the last, and all."""
    lines = [
        "| candidates | kernels tuned for each | tuning s each | the rest s each | in all s each |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    ends = min(ENDS, len(costs))
    parts = {f"first {ends}": costs[:ends], f"last {ends}": costs[-ends:], "all": costs}
    for name, part in parts.items():
        lines.append(
            f"| {name} | {statistics.fmean(one.tuned for one in part):.1f} | "
            f"{statistics.fmean(one.tuning_s for one in part):.1f} | "
            f"{statistics.fmean(one.other_s for one in part):.1f} | "
            f"{statistics.fmean(one.in_all_s for one in part):.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark and print its table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--size", type=int, default=224, help="of the input image")
    parser.add_argument("--trials-per-kernel", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="local")
    parser.add_argument("--records", help="where to keep records; they make the first ones cheap")
    parser.add_argument("--json", action="store_true", help="print the candidates as JSON")
    arguments = parser.parse_args()
    if arguments.candidates < 1:
        parser.error(f"candidates are 1 or more, not {arguments.candidates}")

    from tvm_mnas.devices.profile import load_profile
    from tvm_mnas.search.workbench import open_workbench

    architectures = draw(
        arguments.space,
        candidates=arguments.candidates,
        size=arguments.size,
        seed=arguments.seed,
    )
    print(
        f"{len(architectures)} candidates of {arguments.space} at {arguments.size}, "
        f"{arguments.trials_per_kernel} schedules a kernel, on {arguments.device}",
        flush=True,
    )
    costs: list[Cost] = []
    distinct: set[str] = set()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="candidates-")))
        workbench = stack.enter_context(
            open_workbench(
                load_profile(arguments.device),
                records=Path(arguments.records) if arguments.records else directory / "records",
                logs=directory,
                scratch=directory,
                trials_per_kernel=arguments.trials_per_kernel,
                seed=arguments.seed,
            )
        )
        for number, architecture in enumerate(architectures):
            cost, keys = evaluate(architecture, workbench, directory / f"{number}.so")
            costs.append(cost)
            distinct |= keys
            print(
                f"{number + 1}: {cost.in_all_s:.1f} s, {cost.tuned} of {cost.kernels} kernels tuned, "
                f"{cost.failure or f'{cost.latency_ms:.4g} ms'}",
                file=sys.stderr,
                flush=True,
            )
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return 0
    print(
        f"kernels in all {sum(cost.kernels for cost in costs)}, distinct {len(distinct)}, "
        f"tuned {sum(cost.tuned for cost in costs)} with {sum(cost.schedules for cost in costs)} "
        f"schedules; {sum(cost.failure is not None for cost in costs)} candidates failed\n"
    )
    print(table(costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
