"""How well latencies after little tuning rank networks as latencies after much tuning do.

    python benchmarks/fidelity.py                              # 8 candidates at 96, up to 128 schedules: hours
    python benchmarks/fidelity.py --candidates 30 --parents 4  # 30 that share their kernels
    python benchmarks/fidelity.py --candidates 4 --budgets 4,8 --full 16 --store fidelity-records

Every kernel is tuned once, to --full schedules. What a smaller budget would have found are the first schedules of
that: a round of tuning (16 schedules) learns only from the rounds before, so nothing has to be tuned again and a
difference comes from the budget alone. That is exact for whole rounds; 8 stands for half of a first one. The networks
of all budgets are timed in --rounds (`calm.py`), and those with the full budget twice: no correlation can be expected
to be higher than that of this pair. --store keeps the records, and a second run begins with them. With --parents
each block of a candidate is that of one of so many networks drawn from the space, as after the crossings of an
evolution: the latencies lie as far apart, and there are a quarter of the kernels to tune.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from calm import time_in_rounds
from candidates import draw

from tvm_mnas.evaluation.ranking import spearman

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
    from tvm_mnas.compiler.records.base import TuningRecords
    from tvm_mnas.evaluation.toolchain import Toolchain
    from tvm_mnas.space.architecture import Architecture

FULL_AGAIN = "full, again"


def truncate(
    store: TuningRecords, kernels: Sequence[Kernel], directory: Path, budget: int
) -> TuningRecords:
    """Return a new store in `directory` with the first `budget` schedules of each kernel of `store`."""
    from tvm_mnas.compiler.records.store import RecordStore

    truncated = RecordStore.open(directory, target=store.target)
    for kernel in kernels:
        first = store.records_of(kernel.key)[:budget]
        truncated.add(kernel, first, budget=budget, failures={}, duration_s=0.0)
    return truncated


def mix(parents: Sequence[Architecture], *, candidates: int, seed: int) -> list[Architecture]:
    """Return different architectures, each block of which is that of one of `parents`, drawn uniformly from `seed`."""
    generator = random.Random(seed)
    mixed: dict[str, Architecture] = {}
    # So few parents may have too few mixtures; then this ends with what there is.
    for _ in range(100 * candidates):
        if len(mixed) == candidates:
            break
        blocks = tuple(
            generator.choice(options)
            for options in zip(*(parent.blocks for parent in parents), strict=True)
        )
        architecture = replace(parents[0], blocks=blocks)
        mixed.setdefault(architecture.id, architecture)
    return list(mixed.values())


def table(latencies_ms: Mapping[str, Sequence[float | None]], full: str) -> str:
    """Return a markdown table of each budget against the one called `full`; None is a network without latency."""
    lines = [
        "| schedules a kernel | candidates | Spearman with full | median slow-down |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, values in latencies_ms.items():
        pairs = [
            (mine, best)
            for mine, best in zip(values, latencies_ms[full], strict=True)
            if mine is not None and best is not None
        ]
        if name == full:
            continue
        if len(pairs) < 2:
            lines.append(f"| {name} | {len(pairs)} | - | - |")
            continue
        slower = statistics.median(mine / best for mine, best in pairs)
        correlation = spearman([mine for mine, _ in pairs], [best for _, best in pairs])
        rank = "-" if correlation is None else f"{correlation:.3f}"
        lines.append(f"| {name} | {len(pairs)} | {rank} | {slower:.3f} |")
    return "\n".join(lines)


def measure(
    toolchains: Mapping[str, Toolchain],
    networks: Sequence[LoweredNetwork],
    directory: Path,
    *,
    rounds: int,
    seed: int,
) -> dict[str, list[float | None]]:
    """Return each network's latency (ms) with the records of each toolchain, all of them on one farm.

    None where a kernel has no schedule that ran.
    """
    from tvm_mnas.errors import UntunedKernelError

    compiled: dict[tuple[int, str], tuple[Path, Sequence[int]]] = {}
    for number, lowered in enumerate(networks):
        for name, toolchain in toolchains.items():
            path = directory / f"{number}-{name.replace(', ', '-')}.so"
            try:
                toolchain.compile(lowered, path)
            except UntunedKernelError as error:
                print(f"candidate {number}, {name}: {error}", file=sys.stderr)
            else:
                compiled[number, name] = path, lowered.input_shape
    farm = next(iter(toolchains.values())).farm
    latencies_ms = time_in_rounds(
        compiled,
        farm,
        rounds=rounds,
        seed=seed,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    return {
        name: [latencies_ms.get((number, name)) for number in range(len(networks))]
        for name in toolchains
    }


def main() -> int:
    """Run the benchmark and print its table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--parents", type=int, help="networks that the candidates are mixed from")
    parser.add_argument("--size", type=int, default=96, help="of the input image")
    parser.add_argument("--budgets", default="8,16,32,64")
    parser.add_argument("--full", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="local")
    parser.add_argument("--store", help="a directory of its own for the records")
    arguments = parser.parse_args()
    budgets = [int(text) for text in arguments.budgets.split(",")]
    if arguments.candidates < 2 or not all(0 < budget < arguments.full for budget in budgets):
        parser.error("candidates are 2 or more, and budgets above 0 and below --full")
    if arguments.parents is not None and arguments.parents < 2:
        parser.error("candidates are mixed from 2 parents or more")

    from tvm_mnas.compiler.records.store import RecordStore
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
    from tvm_mnas.models.network import build_network

    profile = load_profile(arguments.device)
    architectures = draw(
        arguments.space,
        candidates=arguments.parents or arguments.candidates,
        size=arguments.size,
        seed=arguments.seed,
    )
    if arguments.parents:
        architectures = mix(architectures, candidates=arguments.candidates, seed=arguments.seed)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fidelity-")))
        opened = stack.enter_context(
            open_toolchain(
                profile,
                ToolchainOptions(
                    records=directory / "unused",
                    schedules_per_kernel=arguments.full,
                    seed=arguments.seed,
                ),
                logs=directory,
                scratch=directory,
            )
        )
        # Without the records that ship, of which only the best schedules are left.
        store = RecordStore.open(
            Path(arguments.store) if arguments.store else directory / "full",
            target=profile.target,
        )
        toolchain = replace(opened, store=store)
        networks = [
            toolchain.lower(build_network(one).eval(), one.image_shape) for one in architectures
        ]
        kernels = {kernel.key: kernel for lowered in networks for kernel in lowered.kernels}
        missing = store.missing(kernels.values(), schedules_per_kernel=arguments.full)
        print(
            f"{len(networks)} candidates of {arguments.space} at {arguments.size} on {arguments.device}: "
            f"{len(kernels)} distinct kernels, {len(missing)} "
            f"of them tuned now to {arguments.full} schedules",
            flush=True,
        )
        # Evenly: what a smaller budget would have given can then be read from the records.
        toolchain.tune(networks, on_progress=lambda done, total: None, by_importance=False)
        toolchains = {
            str(budget): replace(
                toolchain,
                store=truncate(store, list(kernels.values()), directory / str(budget), budget),
            )
            for budget in budgets
        }
        full = str(arguments.full)
        toolchains |= {full: toolchain, FULL_AGAIN: toolchain}
        latencies_ms = measure(
            toolchains, networks, directory, rounds=arguments.rounds, seed=arguments.seed
        )
    print(f"\n{table(latencies_ms, full)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
