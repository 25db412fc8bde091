"""Detectors from drawn images to boxes out of a net.so: trained, interrupted, searched, killed. Minutes: `-m slow`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.integration.emulated import NEEDS_TOOLS
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.training.detection.drawn import DrawnImages
from tvm_mnas.training.detection.precision import FoundObject, average_precision

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = "ssdlite+i160_c3_w1:stem16_s22:r1_k3_s22_e1_o16_noskip:r2_k3_s22_e3_o32:r3_k3_s22_e4_o64:head128:n3"
TINY = "ssdlite+i64_c3_w1:stem8_s22:r1_k3_s22_e1_o8:r1_k3_s22_e3_o16:head16:n3"
TRAINING_STEPS = 1200
TEST_IMAGES = DrawnImages(200, seed=3)
"""Those of `--data drawn`."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tvm_mnas", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(directory: Path, *arguments: str) -> str:
    done = start(directory, *arguments)
    out, err = done.communicate()
    assert done.returncode == 0, err[-2000:]
    return out


def until(process: subprocess.Popen[str], found: Callable[[], bool]) -> None:
    """Wait until `found()`, while `process` runs."""
    while not found():
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.2)


FINDER = """
import json, pathlib, runpy, sys
from tvm_mnas.training.detection.drawn import DrawnImages
example, export, count, seed = sys.argv[1:]
_, detections = runpy.run_path(example)["load"](pathlib.Path(export))
images = DrawnImages(int(count), seed=int(seed))
print(json.dumps([detections(images.draw(at)).tolist() for at in range(len(images))]))
"""
"""A process of its own, since the example loads TVM without its compiler."""


def precision_of(export: Path) -> float:
    """mAP on the test images through the net.so, by the example that shows how one is run."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", FINDER, ROOT / "examples" / "detect.py", export),
            *(str(TEST_IMAGES.count), str(TEST_IMAGES.seed)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [
        [
            FoundObject((left, top, right - left, bottom - top), int(label), score)
            for left, top, right, bottom, score, label in rows
        ]
        for rows in json.loads(done.stdout)
    ]
    precision = average_precision(TEST_IMAGES.annotations, found).overall
    assert precision is not None
    return precision


def test_it_learns_all_sizes_interrupted_or_not_and_its_library_finds_as_much(
    tmp_path: Path,
) -> None:
    """Issue: ten minutes on two cores, mAP above 0.5 for each size, the same after an interruption."""
    train = ("--data", "drawn", "--recipe", "drawn", "--set", f"steps={TRAINING_STEPS}")
    run(tmp_path, "train", DETECTOR, *train, "-o", "whole", "--schedules-per-kernel", "4")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    for name in ("test_map", "test_map_small", "test_map_medium", "test_map_large"):
        assert result[name] > 0.5, result
    broken = start(tmp_path, "train", DETECTOR, *train, "-o", "broken", "--no-export")
    until(broken, lambda: len(_lines(tmp_path / "broken" / "log.jsonl")) > 30)
    broken.send_signal(signal.SIGINT)
    assert broken.wait() == 130
    run(tmp_path, "train", "--resume", "broken", "--no-export")
    again = json.loads((tmp_path / "broken" / "result.json").read_text())
    measures = {key: value for key, value in result.items() if key.startswith("test_")}
    assert measures == {key: again[key] for key in measures}
    found = precision_of(tmp_path / "whole" / "export")
    assert found == pytest.approx(result["test_map"], abs=0.005)


def test_a_killed_search_goes_on_and_exports_a_detector_as_good_as_it_says(
    tmp_path: Path,
) -> None:
    """Issue: a small search on the drawn set, killed by -9, resumed; the library reaches the stated mAP."""
    settings = ("--trials", "4", "--batch", "2", "--train-steps", "40", "--final-steps", "150")
    other = ("--schedules-per-kernel", "2", "--replicates", "0", "--run", "run")
    killed = start(tmp_path, "search", "--task", "detection", *settings, *other)
    journal = tmp_path / "run" / "study.journal"
    until(killed, lambda: journal.is_file() and "evaluation" in journal.read_text())
    killed.kill()
    killed.wait()
    run(tmp_path, "search", "--resume", "run")
    manifest = json.loads((tmp_path / "run" / "best" / "manifest.json").read_text())
    stated = manifest["accuracy"]["test"]
    assert stated["metric"] == "mAP"
    assert stated["top1"] > 0
    assert manifest["output"] == {"name": "detections", "shape": [1, 100, 6], "dtype": "float32"}
    assert precision_of(tmp_path / "run" / "best") == pytest.approx(stated["top1"], abs=0.005)


@NEEDS_TOOLS
@pytest.mark.parametrize("key", ["emulated-aarch64", "emulated-armv8.2-float16"])
def test_boxes_on_arm_are_torchs(tmp_path: Path, key: str) -> None:
    network = build_candidate(parse_candidate(TINY), seed=0).eval()
    shape = (1, 3, 64, 64)
    profile = load_profile(key)
    options = ToolchainOptions(records=tmp_path / "records", schedules_per_kernel=1, seed=0)
    with open_toolchain(profile, options, logs=tmp_path, scratch=tmp_path) as toolchain:
        lowered = lower_network(network, shape, profile.target, precision=profile.precision)
        toolchain.tune([lowered], on_progress=lambda done, total: None)
        artifact = toolchain.compile(lowered, tmp_path / "net.so")
        images = np.random.default_rng(2).standard_normal((3, *shape[1:]), dtype=np.float32)
        agreement = toolchain.check(artifact, torch_judge(network, batch_size=1), images)
    assert agreement.difference < (1e-4 if key == "emulated-aarch64" else 0.1)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []
