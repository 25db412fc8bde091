"""A candidate whose outputs are NaN, on this machine's real tracker and server: a reason, no latency, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.report.runs import make_accuracy
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.executors.inline import InlineExecutor
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
from tvm_mnas.models import candidates
from tvm_mnas.models.network import Network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.recipe import find_recipe

HEALTHY = Architecture.parse("i16_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head16:n10")
SICK = Architecture.parse("i16_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head24:n10")


class Trained(InlineExecutor):
    """Every candidate is trained already."""

    def submit(self, function: Any, task: Any, on_end: Any) -> Any:
        return super().submit(lambda task, report: make_accuracy(0.5), task, on_end)


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def test_a_network_that_returns_nan_fails_alone_and_the_device_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = candidates.build_network  # type: ignore[attr-defined]

    def sicken(architecture: Architecture, **settings: Any) -> Network:
        network = build(architecture, **settings)
        if architecture == SICK:
            with torch.no_grad():
                list(network.parameters())[-1][3] = float("nan")
        return network

    monkeypatch.setattr(candidates, "build_network", sicken)
    config = SearchConfig()
    # A name for which no records ship; a kernel of which the only schedule fails is let in as it is.
    with open_toolchain(
        replace(load_profile("local"), key="unshipped"),
        ToolchainOptions(
            records=tmp_path / "records",
            schedules_per_kernel=1,
            seed=0,
            max_untuned_share=0.99,
        ),
        logs=tmp_path,
        scratch=tmp_path,
    ) as toolchain:
        trained: Any = Trained()
        pipeline = CandidatePipeline(
            config, find_recipe("embedded"), ("cpu",), toolchain, trained, tmp_path, Silent()
        )
        found = dict(pipeline.evaluate([SICK, HEALTHY]))
    sick, healthy = found[0], found[1]
    assert (sick.architecture, healthy.architecture) == (SICK, HEALTHY)
    assert healthy.latency is not None
    assert healthy.latency.latency_ms > 0
    assert healthy.latency.reference_change is not None
    assert (sick.latency, sick.objectives) == (None, None)
    assert sick.accuracy is not None
    assert sick.failure is not None
    assert (sick.failure.stage, sick.failure.error) == ("measuring", "MeasurementError")
    assert "outputs on the device must be finite" in sick.failure.reason
