"""What a candidate costs: the first ones pay for tuning their kernels, later ones find them tuned.

    python benchmarks/candidates.py --records records           # 100 candidates of the paper's space at 224: hours
    python benchmarks/candidates.py --candidates 20 --size 96 --alone 2 --stock 3

Candidates are drawn uniformly and go one after the other from notation to measured latency, without training. The
records begin empty, unless --records names a directory to keep them in: a run that was cut off goes on there, and
what it finds tuned makes its times cheaper than they are, which it says. After the loop all candidates are timed
again, in --again rounds (`calm.py`), and a predictor of these latencies is fitted on every other candidate and tried
on the rest; a few candidates are tuned alone, by ours and (a sample of their kernels) by stock MetaSchedule: see
alone.py. The result goes to the standard output, progress to the standard error.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import alone
from alone import Alone, OpenToolchain, StockSample
from calm import time_in_rounds
from costs import Cost, Result, predict

if TYPE_CHECKING:
    from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions
    from tvm_mnas.space.architecture import Architecture


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


def evaluate(architecture: Architecture, toolchain: Toolchain, path: Path) -> tuple[Cost, set[str]]:
    """Return what `architecture` took up to its latency, and the keys of its kernels."""
    from tvm_mnas.errors import CandidateError, DeviceError
    from tvm_mnas.models.network import build_network

    started = time.perf_counter()
    cost = Cost(architecture.notation, 0, 0, 0, 0.0, 0.0, None)
    keys: set[str] = set()
    try:
        shape = architecture.image_shape
        lowered = toolchain.lower(build_network(architecture).eval(), shape)
        keys = {kernel.key for kernel in lowered.kernels}
        report = toolchain.tune([lowered], on_progress=lambda done, total: None)
        cost = replace(
            cost,
            kernels=len(keys),
            tuned=len(report.kernels),
            schedules=sum(kernel.schedules for kernel in report.kernels),
            tuning_s=report.duration_s,
            kernels_us=toolchain.kernels_us(lowered),
            calls=lowered.kernel_calls,
            moved_bytes=lowered.moved_bytes,
        )
        latency = toolchain.measure(toolchain.compile(lowered, path))
        cost = replace(cost, latency_ms=latency.latency_ms, noisy=latency.noisy)
    except (CandidateError, DeviceError) as error:
        # A device that was lost for one candidate may be back for the next; hours of others are worth keeping.
        cost = replace(cost, failure=str(error))
    return replace(cost, other_s=time.perf_counter() - started - cost.tuning_s), keys


def time_again(
    costs: Sequence[Cost],
    architectures: Sequence[Architecture],
    toolchain: Toolchain,
    directory: Path,
    *,
    rounds: int,
    seed: int,
) -> list[Cost]:
    """Return `costs` with the latencies of `rounds` more timings of every candidate that has one."""

    compiled = {
        index: (directory / f"{index + 1}.so", architecture.image_shape)
        for index, architecture in enumerate(architectures)
        if costs[index].latency_ms is not None
    }
    again = time_in_rounds(compiled, toolchain.farm, rounds=rounds, seed=seed, say=say)
    return [
        replace(cost, latency_ms=again.get(index, cost.latency_ms))
        for index, cost in enumerate(costs)
    ]


def say(text: str) -> None:
    """Tell of progress."""
    print(text, file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace, directory: Path) -> Result:
    """Evaluate the candidates and compare some with tuning alone; `directory` takes temporary files."""
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.errors import TvmMnasError
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    architectures = draw(
        arguments.space,
        candidates=arguments.candidates,
        size=arguments.size,
        seed=arguments.seed,
    )
    setting = (
        f"{len(architectures)} candidates of {arguments.space} at {arguments.size}, "
        f"{arguments.schedules_per_kernel} schedules a kernel, on {arguments.device}; latencies to predict are of "
        f"{arguments.again} rounds"
    )
    say(setting)
    records = Path(arguments.records) if arguments.records else directory / "records"
    profile = load_profile(arguments.device)
    # Kernels of the published networks, of which records ship, are kernels of the space too.
    options = ToolchainOptions(
        records=records,
        schedules_per_kernel=arguments.schedules_per_kernel,
        seed=arguments.seed,
        with_shipped=False,
    )
    open_one = partial(open_toolchain, profile)
    costs: list[Cost] = []
    distinct: set[str] = set()
    with open_one(options, logs=directory, scratch=directory) as toolchain:
        known = toolchain.store.keys()
        for number, architecture in enumerate(architectures, start=1):
            cost, keys = evaluate(architecture, toolchain, directory / f"{number}.so")
            costs.append(cost)
            distinct |= keys
            say(
                f"{number}: {cost.in_all_s:.1f} s, {cost.tuned} of {cost.kernels} kernels tuned, "
                f"{cost.failure or f'{cost.latency_ms:.4g} ms'}"
            )
        again = time_again(
            costs, architectures, toolchain, directory, rounds=arguments.again, seed=arguments.seed
        )
    measured = {
        number: architecture
        for number, (architecture, cost) in enumerate(
            zip(architectures, costs, strict=True), start=1
        )
        if cost.latency_ms is not None
    }
    chosen = alone.spread_evenly(list(measured), arguments.alone)
    try:
        tuned_alone, stock = compare_alone(
            {number: measured[number] for number in chosen},
            arguments,
            open_one,
            options,
            directory=directory,
        )
    except TvmMnasError as error:
        # As above: what the candidates cost is worth printing by itself.
        tuned_alone = stock = str(error)
    return Result(
        setting=setting,
        costs=costs,
        distinct=len(distinct),
        found=len(distinct & known),
        prediction=predict(again),
        alone=tuned_alone,
        stock=stock,
    )


def compare_alone(
    architectures: Mapping[int, Architecture],
    arguments: argparse.Namespace,
    open_one: OpenToolchain,
    options: ToolchainOptions,
    *,
    directory: Path,
) -> tuple[list[Alone] | str, StockSample | str]:
    """Return what tuning `architectures` (number -> one) alone gave, and what stock takes; a text tells why not."""
    if not arguments.alone:
        return "--alone is 0", "its kernels are those of candidates tuned alone, and --alone is 0"
    if not architectures:
        reason = "no candidate has a latency"
        return reason, reason
    peers = alone.tune_alone(
        architectures,
        open_one,
        replace(options, records=options.records / "alone", seed=options.seed + 1),
        directory=directory,
        say=say,
    )
    with open_one(options, logs=directory, scratch=directory) as toolchain:
        results = alone.time_both(
            peers,
            toolchain,
            directory=directory,
            rounds=arguments.rounds,
            seed=arguments.seed,
            say=say,
        )
        target = toolchain.profile.target
    if not arguments.stock:
        return results, "--stock is 0"
    say(f"stock MetaSchedule tunes {arguments.stock} kernels")
    return results, alone.sample_stock(
        peers,
        target,
        count=arguments.stock,
        directory=directory,
        trials=arguments.schedules_per_kernel,
        seed=arguments.seed,
    )


def main() -> int:
    """Run the benchmark and print what it found; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--size", type=int, default=224, help="of the input image")
    parser.add_argument("--schedules-per-kernel", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="local")
    parser.add_argument("--records", help="where to keep records; they make the first ones cheap")
    parser.add_argument("--again", type=int, default=10, help="rounds of timing all, to predict")
    parser.add_argument("--alone", type=int, default=3, help="candidates tuned alone too")
    parser.add_argument("--rounds", type=int, default=7, help="of timing those again")
    parser.add_argument("--stock", type=int, default=6, help="kernels of those for stock, 0: none")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    for name, least in (("candidates", 1), ("again", 0), ("alone", 0), ("rounds", 1), ("stock", 0)):
        value = getattr(arguments, name)
        if value < least:
            parser.error(f"--{name} is {least} or more, not {value}")
    with tempfile.TemporaryDirectory(prefix="candidates-") as directory:
        result = run(arguments, Path(directory))
    print(json.dumps(result.to_json()) if arguments.json else result.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
