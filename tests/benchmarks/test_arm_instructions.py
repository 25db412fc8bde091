"""Instructions on ARM: the kernels furthest from their floor, and the networks' counts in millions."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.devices.farm.instructions import InstructionCounts

Script = Callable[[str], ModuleType]
HALF = Precision("float16", "float16")
BFLOAT = Precision("bfloat16")


def test_the_kernels_furthest_from_their_floor_come_first_and_are_ten(script: Script) -> None:
    kernels = [(f"kernel {n}", 2, 1_000_000 * n, 500_000) for n in range(1, 13)]
    lines = script("arm_instructions").kernel_table(kernels).splitlines()
    assert len(lines) == 12
    assert lines[2] == "| kernel 12 | 2 | 12.00 | 0.50 |"
    assert lines[-1] == "| kernel 3 | 2 | 3.00 | 0.50 |"


def test_a_network_has_a_row_of_millions_and_a_rival_no_floor(script: Script) -> None:
    counts = InstructionCounts.of(
        [21_000_000, 6_000_000, 5_000_000, 4_000_000, 3_000_000, 2_000_000, 1_000_000]
    )
    rows = [("b1", "cortex-a72", counts, 5_900_000), ("b1", "ONNX Runtime 1", counts, None)]
    header, _, ours, rival = script("arm_instructions").network_table(rows).splitlines()
    assert header == (
        "| network | code for | all | multiply adds | loads | stores | branches | integer | other vector | floor |"
    )
    assert ours == "| b1 | cortex-a72 | 21.0 | 6.0 | 5.0 | 4.0 | 3.0 | 2.0 | 1.0 | 5.9 |"
    assert rival.endswith("| 1.0 | - |")


def test_the_code_is_for_the_core_that_is_asked_for(script: Script) -> None:
    profile = script("arm_instructions").profile_of("cortex-a76")
    assert '"mcpu": "cortex-a76"' in profile.target
    assert (profile.key, profile.emulated) == ("emulated-cortex-a76", True)
    assert profile.precision == FLOAT32
    assert script("arm_instructions").profile_of("cortex-a76", HALF).precision == HALF


@pytest.mark.parametrize(
    ("core", "precision", "lanes"),
    [
        ("cortex-a76", FLOAT32, 4),
        ("cortex-a76", HALF, 8),
        ("cortex-a76", Precision("float16", "float32"), 4),
        ("cortex-a72", HALF, 4),
        ("cortex-a76", BFLOAT, 4),
        ("cortex-a710", BFLOAT, 8),
    ],
)
def test_the_floor_is_of_whole_vectors_of_the_sums_type(
    script: Script, core: str, precision: Precision, lanes: int
) -> None:
    assert script("arm_instructions").lanes_of(core, precision) == lanes


def test_half_precision_is_set_beside_float32(script: Script) -> None:
    half, whole = (InstructionCounts.of([n, n, 0, 0, 0, 0, 0]) for n in (50_000_000, 100_000_000))
    assert script("arm_instructions").half_line("b1", "cortex-a76", "float16", half, whole) == (
        "b1, cortex-a76: float16 takes 50.0 M instructions, 0.50 of float32's 100.0 M"
    )
