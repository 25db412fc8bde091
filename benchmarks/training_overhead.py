"""What our training loop costs beside a bare torch loop, on the same network, batches and optimizer.

    python benchmarks/training_overhead.py [--steps 60] [--device cpu]

Both take the same batches, made beforehand, and AdamW; they take turns, several rounds of so many steps, each round
in the other order, on one thread of a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.data.splits import Batch, Split
from tvm_mnas.training.loop import run_training, start_training
from tvm_mnas.training.optimizers import parameter_groups
from tvm_mnas.training.recipe import find_recipe
from tvm_mnas.training.tasks import Classification

NOTATION = "i32_c3_w1:stem16_s22:r2_k3_s11_e3_i16_o16:r3_k5_s22_e3_i16_o24:r1_k3_s22_e6_i24_o40:head128:n10"
ROUNDS = 12


@dataclass(frozen=True)
class Prepared:
    """Batches that are there already."""

    split: Split
    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.split)

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield them."""
        return iter(self.batches[:steps])

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield the split's."""
        return self.split.eval_batches(batch_size=batch_size)


def bare(batches: tuple[Batch, ...], rate: float, decay: float, device: str) -> None:
    """Train as tutorials do."""
    network = build_network(
        Architecture.parse(NOTATION), seed=0, batch_norm_momentum=0.1, zero_init_residual=True
    )
    network.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.AdamW(parameter_groups(network, decay), lr=rate, fused=True)
    loss_of = nn.CrossEntropyLoss()
    for images, labels in batches:
        placed = images.to(device, memory_format=torch.channels_last)
        loss = loss_of(network(placed), labels.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def main() -> None:
    """Print milliseconds a step of both, the median of all rounds, and their ratio in each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = find_recipe("embedded", {"steps": arguments.steps})
    splits = load_data("embedded", LoadOptions(input_size=32))
    batches = tuple(
        splits.train.train_batches(batch_size=recipe.batch_size, steps=recipe.steps, seed=0)
    )
    prepared = replace(splits, train=Prepared(splits.train, batches))
    plan = recipe.plan(len(splits.train))

    def ours() -> None:
        state = start_training(Architecture.parse(NOTATION), plan, seed=0, device=arguments.device)
        run_training(state, plan, prepared, task=Classification(), seed=0, device=arguments.device)

    def theirs() -> None:
        bare(batches, recipe.learning_rate, recipe.weight_decay, arguments.device)

    times: dict[str, list[float]] = {"ours": [], "bare torch": []}
    ways = [("bare torch", theirs), ("ours", ours)]
    for warm in (True, *[False] * ROUNDS):
        ways.reverse()
        for name, way in ways:
            began = time.perf_counter()
            way()
            if arguments.device != "cpu":
                torch.cuda.synchronize()
            if not warm:
                times[name].append((time.perf_counter() - began) / recipe.steps * 1e3)
    ratios = [a / b for a, b in zip(times["ours"], times["bare torch"], strict=True)]
    print(
        f"ms a step of {recipe.batch_size} images, {ROUNDS} rounds of {recipe.steps} steps in turn"
    )
    for name, found in times.items():
        print(f"{name:<12}{statistics.median(found):>8.2f}")
    print(
        f"ratio       {statistics.median(ratios):>8.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
