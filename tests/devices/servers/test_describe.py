"""A profile from what a device's shell says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tvm_mnas.devices.core.profile import DeviceProfile
from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.devices.servers.describe import describe_device
from tvm_mnas.errors import ProfileError

TRACKER = TrackerAddress("127.0.0.1", 9190)


def core(
    number: int, part: str, *, features: str = "fp asimd asimddp", implementer: str = "0x41"
) -> str:
    return (
        f"processor\t: {number}\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU part\t: {part}\n\n"
    )


def described(machine: str, clocks: dict[int, int | None], text: str) -> DeviceProfile:
    lines = [f"frequency {n} {'' if khz is None else khz}" for n, khz in clocks.items()]
    answer = "\n".join([machine, *lines, text])
    return describe_device(answer, key="mine", tracker=TRACKER)


def test_the_last_of_the_fastest_cores_is_taken() -> None:
    text = core(0, "0xd05") + core(1, "0xd41") + core(2, "0xd41")
    profile = described("aarch64", {0: 1800000, 1: 2400000, 2: 2400000}, text)
    target = json.loads(profile.target)
    assert (profile.core, target["mcpu"], target["mtriple"]) == (
        2,
        "cortex-a78",
        "aarch64-linux-gnu",
    )
    assert profile.description == "one cortex-a78 core at 2.40 GHz of 3"
    assert "-dotprod" not in target["mattr"]


def test_a_feature_that_the_kernel_hides_is_switched_off() -> None:
    profile = described(
        "aarch64", {0: 3000000}, core(0, "0xd4e", features="fp asimd asimddp fphp i8mm bf16")
    )
    assert json.loads(profile.target)["mattr"] == ["+neon", "-sve"]


def test_clocks_that_cannot_be_read_leave_the_last_core() -> None:
    profile = described("armv7l", {0: None, 1: None}, core(0, "0xc07") + core(1, "0xc07"))
    assert profile.core == 1
    assert json.loads(profile.target)["mtriple"] == "armv7l-linux-gnueabihf"
    assert profile.description == "one cortex-a7 core of 2"


def test_it_reads_back_from_its_file(tmp_path: Path) -> None:
    profile = described("aarch64", {0: 1500000}, core(0, "0xd08"))
    path = tmp_path / "mine.toml"
    path.write_text(profile.to_toml())
    assert DeviceProfile.from_toml(path) == profile


@pytest.mark.parametrize(
    ("machine", "text", "message"),
    [
        ("mips", core(0, "0xd08"), "not 'mips'"),
        ("aarch64", core(0, "0x123"), "implementer 0x41 part 0x123, which is not known here"),
        ("aarch64", core(0, "?"), "part \\?"),
        ("aarch64", "", "lists a device's processors"),
    ],
)
def test_what_is_unknown_is_named(machine: str, text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        described(machine, {0: 1}, text)
