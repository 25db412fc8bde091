"""ARM code in half precision without an ARM: every operation of the spaces, a search, and what is printed of it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.integration.emulated import NEEDS_TOOLS, mnasnet_b1, run_command
from tvm_mnas.cores.precision import Dtype
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.agreement import Agreement, torch_judge
from tvm_mnas.evaluation.toolchain import Shape, ToolchainOptions, open_toolchain
from tvm_mnas.models.network import build_network
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.space.architecture import Architecture

KEY = "emulated-armv8.2-float16"
BFLOAT = "emulated-armv8.6-bfloat16"
UNIT = 2.0**-11
BFLOAT_UNIT = 2.0**-8
TRIALS = 3
EVERY_OPERATION = (
    "i32_c3_w1:stem16_s22:r1_k3_s11_conv_i16_o16_noskip:r2_k3_s22_e1_i16_o24_max:r1_k5_s11_e3_i24_o24_se0.25"
    ":r1_k7_s11_e3_i24_o24:r1_k5_s22_conv_i24_o32_avg:r1_k1_s11_e6_i32_o32_se0.5:head64:n10"
)
"""Each kind of convolution, kernel and skip that a space may offer."""
A_FEW_OPERATIONS = (
    "i16_c3_w1:stem16_s22:r1_k3_s11_conv_i16_o16_noskip:r1_k3_s22_e3_i16_o24_se0.5:head32:n10"
)

pytestmark = [pytest.mark.timeout(600), NEEDS_TOOLS]


def settled(architecture: Architecture) -> nn.Module:
    """Return the network with statistics of noise, so that nothing of it is near zero."""
    network = build_network(architecture, seed=3).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network(torch.randn((4, *architecture.image_shape[1:]), generator=generator))
    return network.eval()


def agree(
    network: nn.Module,
    shape: Shape,
    directory: Path,
    *,
    key: str = KEY,
    accumulator: Dtype | None = None,
    schedules: int = 1,
) -> tuple[Agreement, str]:
    """Return how far the tuned network is from torch in float32, and its code as text."""
    profile = replace(load_profile(key), accumulator=accumulator)
    options = ToolchainOptions(records=directory, schedules_per_kernel=schedules, seed=0)
    with open_toolchain(profile, options, logs=directory, scratch=directory) as toolchain:
        lowered = toolchain.lower(network, shape)
        toolchain.tune([lowered], on_progress=lambda done, total: None, by_importance=False)
        artifact = toolchain.compile(lowered, directory / "net.so")
        agreement = toolchain.check_network(artifact, torch_judge(network, batch_size=1), seed=0)
        latency = toolchain.measure(artifact)
    assert latency.emulated
    assert latency.precision == profile.precision
    code = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", directory / "net.so"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return agreement, code


@pytest.mark.parametrize(
    ("accumulator", "units"), [(None, 32), pytest.param("float32", 8, marks=pytest.mark.slow)]
)
def test_every_operation_of_the_spaces_computes_there_what_torch_does(
    accumulator: Dtype | None, units: int, tmp_path: Path
) -> None:
    architecture = Architecture.parse(EVERY_OPERATION)
    agreement, code = agree(
        settled(architecture), architecture.image_shape, tmp_path, accumulator=accumulator
    )
    assert agreement.difference < units * UNIT
    halves, wholes = (len(re.findall(rf"fmla\s+v\d+\.{one}", code)) for one in ("8h", "4s"))
    assert halves > 10 * wholes if accumulator is None else wholes > 10 * halves


@pytest.mark.parametrize(
    "notation",
    [A_FEW_OPERATIONS, pytest.param(EVERY_OPERATION, marks=pytest.mark.slow)],
    ids=["a few", "every one"],
)
def test_so_they_do_in_bfloat16_by_pairs(notation: str, tmp_path: Path) -> None:
    architecture = Architecture.parse(notation)
    network = settled(architecture)
    agreement, code = agree(network, architecture.image_shape, tmp_path, key=BFLOAT)
    assert agreement.difference < 8 * BFLOAT_UNIT
    assert len(re.findall(r"\bbfdot\s", code)) > 100


@pytest.mark.slow
def test_mnasnet_b1_computes_there_what_torch_does(tmp_path: Path) -> None:
    architecture = mnasnet_b1()
    agreement, _ = agree(settled(architecture), architecture.image_shape, tmp_path)
    assert agreement.difference < 32 * UNIT


@pytest.mark.slow
def test_a_search_there_says_what_its_networks_compute_in(tmp_path: Path) -> None:
    done = run_command(
        tmp_path,
        *("search", "--space", str(Path(__file__).with_name("few_kernels.toml"))),
        *("--device", KEY, "--trials", str(TRIALS), "--batch", "1", "--run", "run"),
        *("--train-steps", "4", "--final-steps", "4", "--schedules-per-kernel", "1"),
        *("--records", "records", "--target-latency", "20ms", "--json"),
    )
    assert json.loads(done.stdout)["trials"] == TRIALS
    for record in RunDirectory.open(tmp_path / "run").finished_trials():
        assert record.evaluation.failure is None
        assert record.evaluation.latency is not None
        assert str(record.evaluation.latency.precision) == "float16"
    manifest = json.loads((tmp_path / "run" / "best" / "manifest.json").read_text("utf-8"))
    assert manifest["artifact"]["dtype"] == manifest["artifact"]["accumulator"] == "float16"
    assert manifest["input"]["dtype"] == manifest["output"]["dtype"] == "float32"
    run_command(tmp_path, "report", "run")
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "computed in" in page
