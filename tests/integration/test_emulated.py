"""ARM code without an ARM: the device's own server under qemu-user, through a real tracker.

Needs `make arm-tools`; without them these tests are skipped, and say what is lacking.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration.emulated import NEEDS_TOOLS, run_command, small_b1
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
from tvm_mnas.models.inference import predict
from tvm_mnas.models.network import build_network
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.workflows.doctor import Finding, diagnose

KEY = "emulated-aarch64"
TRIALS = 3

pytestmark = [pytest.mark.timeout(600), NEEDS_TOOLS]


def test_mnasnet_b1_computes_there_what_torch_does(tmp_path: Path) -> None:
    """Issue: within 1e-4 on outputs that are not degenerate."""
    architecture = small_b1()
    network = build_network(architecture, seed=1)
    shape = architecture.image_shape
    profile = load_profile(KEY)
    with open_toolchain(
        profile,
        ToolchainOptions(
            records=tmp_path / "records",
            schedules_per_kernel=1,
            seed=0,
        ),
        logs=tmp_path,
        scratch=tmp_path,
    ) as toolchain:
        lowered = lower_network(network, shape, profile.target)
        toolchain.tune([lowered], on_progress=lambda done, total: None)
        artifact = toolchain.compile(lowered, tmp_path / "net.so")
        assert _machine_of(artifact.path) == "AArch64"
        images = np.random.default_rng(2).standard_normal((2, *shape[1:]), dtype=np.float32)
        expected = predict(network, images)
        # Different for each image, and across classes: a network that is all bias proves nothing.
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
        assert expected.std(axis=1).min() > 0.01
        agreement = toolchain.check(artifact, torch_judge(network, batch_size=1), images)
        assert agreement.difference < 1e-4
        latency = toolchain.measure(artifact)
    assert latency.emulated


def _machine_of(library: Path) -> str:
    header = subprocess.run(
        ["readelf", "-h", library], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    (line,) = [line for line in header.splitlines() if "Machine:" in line]
    return line.partition(":")[2].strip()


def test_the_doctor_finds_it_usable_and_does_not_time_it() -> None:
    steps = {step.name: step for step in diagnose(load_profile(KEY))}
    assert {step.verdict for step in steps.values()} == {Finding.GOOD}, steps
    assert "machine aarch64" in steps["answers"].finding
    assert "no latencies" in steps["times"].finding


def test_kernels_there_are_ranked_by_their_instructions_the_same_each_time(tmp_path: Path) -> None:
    architecture = replace(small_b1(), input_size=32)
    network = build_network(architecture, seed=1)
    profile = load_profile(KEY)
    found = []
    for name in ("one", "two"):
        options = ToolchainOptions(records=tmp_path / name, schedules_per_kernel=2, seed=0)
        with open_toolchain(profile, options, logs=tmp_path, scratch=tmp_path) as toolchain:
            lowered = lower_network(network, architecture.image_shape, profile.target)
            # Not the stem alone: of one kernel it may be by chance.
            kernels = lowered.kernels[:4]
            few = replace(lowered, kernels=kernels)
            toolchain.tune([few], on_progress=lambda done, total: None, by_importance=False)
            runs = [
                (kernel.flops, *json.loads(record)[1])
                for kernel in kernels
                for record in toolchain.store.records_of(kernel.key)
            ]
            found.append(runs)
    assert found[0] == found[1]
    for flops, run in found[0]:
        instructions = run * 1e9
        assert instructions == pytest.approx(round(instructions), abs=1e-3)
        # A multiply-add of four lanes is eight operations: no program does with fewer, and a good one with few more.
        assert flops / 8 < instructions < 10 * flops


@pytest.mark.slow
def test_a_search_there_says_everywhere_that_its_times_are_no_latencies(tmp_path: Path) -> None:
    done = run_command(
        tmp_path,
        *("search", "--space", str(Path(__file__).with_name("few_kernels.toml"))),
        *("--device", KEY, "--trials", str(TRIALS), "--batch", "1", "--run", "run"),
        *("--train-steps", "4", "--final-steps", "4", "--schedules-per-kernel", "1"),
        *("--records", "records", "--target-latency", "20ms", "--json"),
    )
    assert json.loads(done.stdout)["trials"] == TRIALS
    lines = [line for line in done.stderr.splitlines() if line.startswith("trial ")]
    assert len(lines) == TRIALS
    assert all("EMULATED, not a latency" in line for line in lines), lines
    records = list(RunDirectory.open(tmp_path / "run").finished_trials())
    for record in records:
        evaluation = record.evaluation
        assert evaluation.failure is None
        assert evaluation.latency is not None
        assert evaluation.latency.emulated
        assert evaluation.latency.coverage.tuned_share == 1.0
    report = run_command(tmp_path, "report", "run").stdout
    rows = [line for line in report.splitlines() if " ms" in line]
    assert rows
    assert all("emulated: not a latency" in row for row in rows), report
    page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
    assert "emulated: not a latency" in page
