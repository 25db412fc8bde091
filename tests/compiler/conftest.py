"""A small network with every kind of kernel, tuned once for all tests, and runners that behave and misbehave."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.compiler.targets import runs_here
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.linking import Linker, find_linker
from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning.build_workers import WarmBuilder
from tvm_mnas.compiler.tuning.tuner import TuningBudget, TuningReport, tune_kernels

SHAPE = (1, 3, 16, 16)
TRIALS = 2


class SmallNetwork(nn.Module):
    """Convolution, depthwise, squeeze-and-excitation, pointwise, both skips, pooling and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(8, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2, 8, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.average = nn.AvgPool2d(3, stride=1, padding=1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        features = self.depthwise(stem)
        features = features * self.gate(features)
        features = self.project(features) + stem
        features = self.pool(features) + self.average(features)
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


class Mean(nn.Module):
    """The mean over all pixels: (N,C,H,W) -> (N,C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def small_network(seed: int = 0) -> nn.Module:
    """Return the network in eval mode; statistics and weights are such that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    network = SmallNetwork()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0.0, 0.2, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1, generator=generator)
    return network.eval()


@dataclass(frozen=True)
class Done:
    """A future that is done."""

    outcome: Any

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        return self.outcome


class TimingRunner:
    """Times libraries in this process. A deadline is not needed: the kernels here are tiny."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        return [Done(self._time(item)) for item in runner_inputs]

    def _time(self, item: Any) -> Any:
        import tvm

        self.runs += 1
        arguments = []
        for info in item.args_info:
            shape = [int(extent) for extent in info.shape]
            arguments.append(tvm.runtime.tensor(np.ones(shape, dtype=str(info.dtype))))
        library = tvm.runtime.load_module(str(item.artifact_path))
        evaluator = library.time_evaluator("main", tvm.cpu(0), number=5, repeat=2)
        return _result(list(evaluator(*arguments).results))


class FixedRunner:
    """Answers what `answer` says for the number of the run: seconds, or a message of failure."""

    def __init__(self, answer: Callable[[int], float | str]) -> None:
        self.answer = answer
        self.runs = 0

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        futures = []
        for _ in runner_inputs:
            self.runs += 1
            futures.append(Done(_result(self.answer(self.runs))))
        return futures


def _result(outcome: list[float] | float | str) -> Any:
    runner_result = load_meta_schedule().runner.RunnerResult
    if isinstance(outcome, str):
        return runner_result(None, outcome)
    return runner_result(outcome if isinstance(outcome, list) else [outcome], None)


@pytest.fixture(scope="session")
def target() -> str:
    return runs_here()


@pytest.fixture(scope="session")
def core() -> int:
    return max(os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def lowered(target: str) -> LoweredNetwork:
    return lower_network(small_network(), SHAPE, target)


@pytest.fixture(scope="session")
def builder(
    core: int, target: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WarmBuilder]:
    """Yield one worker; TVM is imported once for the whole room."""
    log = tmp_path_factory.mktemp("builder") / "builder.log"
    with WarmBuilder(cores=[core], linker=find_linker(target), log=log) as opened:
        yield opened


@dataclass(frozen=True)
class Tuned:
    """The tuned network; tests must not add to its store."""

    store: RecordStore
    report: TuningReport
    runs: int


@pytest.fixture(scope="session")
def tuned(
    lowered: LoweredNetwork,
    builder: WarmBuilder,
    target: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:
    store = RecordStore.open(tmp_path_factory.mktemp("records"), target=target)
    runner = TimingRunner()
    report = tune_kernels(
        lowered.kernels,
        store,
        target=target,
        builder=builder,
        runner=runner,
        budget=TuningBudget(schedules_per_kernel=TRIALS),
        seed=0,
    )
    return Tuned(store, report, runner.runs)


@pytest.fixture
def script_linker(tmp_path: Path) -> Callable[[str], Linker]:
    """Return a function that makes a linker of a shell script; `$obj` and `$out` are its files."""

    def make(body: str) -> Linker:
        path = tmp_path / "linker"
        path.write_text(
            '#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  case "$1" in\n    -o) shift; out=$1;;\n'
            f"    *.o) obj=$1;;\n  esac\n  shift\ndone\n{body}\n"
        )
        path.chmod(0o755)
        return Linker((str(path),))

    return make
