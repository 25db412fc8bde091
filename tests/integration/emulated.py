"""What tests of ARM code under emulation start from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tvm_mnas.models.zoo.registry import ZOO
from tvm_mnas.space.architecture import Architecture

SEARCH_S = 400
LACKING = [
    name
    for name in ("qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ld")
    if shutil.which(name) is None
]
NEEDS_TOOLS = pytest.mark.skipif(
    bool(LACKING), reason=f"make arm-tools brings {', '.join(LACKING)}"
)


def mnasnet_b1() -> Architecture:
    """MnasNet-B1 as it is published."""
    (entry,) = [entry for entry in ZOO if entry.key == "mnasnet-b1"]
    assert entry.architecture is not None
    return entry.architecture


def small_b1() -> Architecture:
    """MnasNet-B1 of a third of the channels, at 64 pixels."""
    return replace(mnasnet_b1(), depth_multiplier=0.35, input_size=64)


def run_command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tvm-mnas` with `arguments` in `directory`; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "tvm_mnas", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=SEARCH_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done
