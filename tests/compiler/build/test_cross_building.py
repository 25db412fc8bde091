"""A network for a device of another architecture, built and linked here, with no compiler for that device."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.compiler.conftest import SHAPE, small_network
from tests.compiler.elf import AARCH64, ARM, made_for
from tests.compiler.untuned import build_untuned
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.devices.core.profile import load_profile

LINKERS = {"rpi4": "aarch64-linux-gnu-ld", "armv7-a7": "arm-linux-gnueabihf-ld"}


@pytest.mark.parametrize(("key", "kind"), [("rpi4", AARCH64), ("armv7-a7", ARM)])
def test_a_network_builds_for_the_device(key: str, kind: tuple[int, int], tmp_path: Path) -> None:
    if shutil.which(LINKERS[key]) is None and shutil.which("ld.lld") is None:
        pytest.skip(f"make arm-tools brings {LINKERS[key]}")
    lowered = lower_network(small_network(), SHAPE, load_profile(key).target)
    assert made_for(build_untuned(lowered, tmp_path)) == kind
