"""Profiles: the shipped one, round trips, and one line for every wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mnas.cores.precision import Precision
from tvm_mnas.devices.core import host
from tvm_mnas.devices.core.cores import fastest_core
from tvm_mnas.devices.core.profile import (
    DeviceProfile,
    TimingSettings,
    load_profile,
    read_profile,
    shipped_profiles,
)
from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.errors import ProfileError

HALF = "emulated-armv8.2-float16"
BFLOAT = "emulated-armv8.6-bfloat16"
GOOD = """
key = "rpi4"
description = "a board"
threads = 2
tracker = "10.0.0.5:9190"
max_temperature_c = 75
max_slowdown = 2.5
[target]
kind = "llvm"
mcpu = "cortex-a72"
mtriple = "aarch64-linux-gnu"
[timing]
repeat = 7
cooldown_s = 0.5
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_detected_target_is_the_same_text_once_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a virtual machine that hides a part of its processor.
    monkeypatch.setattr(host, "hidden_features", lambda *_, **__: ["amx-tile", "avxvnni"])
    profile = load_profile("local")
    assert '["-amx-tile", "-avxvnni"]' in profile.target
    assert load_profile(str(write(tmp_path, profile.to_toml()))) == profile


def test_local_is_shipped_pins_one_core_and_detects_its_target() -> None:
    assert "local" in shipped_profiles()
    profile = load_profile("local")
    target = json.loads(profile.target)
    assert profile.is_local
    assert profile.threads == 1
    assert profile.core == fastest_core()
    assert target["kind"] == "llvm"
    assert target["num-cores"] == 1
    assert target["mcpu"]


@pytest.mark.parametrize(
    ("lines", "precision"),
    [
        ("", Precision("float32", "float32")),
        ('dtype = "float16"', Precision("float16", "float16")),
        ('dtype = "float16"\naccumulator = "float32"', Precision("float16", "float32")),
    ],
)
def test_sums_are_in_the_networks_type_unless_the_profile_says_otherwise(
    tmp_path: Path, lines: str, precision: Precision
) -> None:
    profile = read_profile(str(write(tmp_path, f"{lines}\n{GOOD}")))
    assert profile.precision == precision


def test_a_profile_of_ones_own_is_read_by_path(tmp_path: Path) -> None:
    profile = load_profile(str(write(tmp_path, GOOD)))
    assert profile.tracker == TrackerAddress("10.0.0.5", 9190)
    assert not profile.is_local
    assert json.loads(profile.target) == {
        "kind": "llvm",
        "mcpu": "cortex-a72",
        "mtriple": "aarch64-linux-gnu",
        "num-cores": 2,
    }
    assert profile.timing == TimingSettings(repeat=7, cooldown_s=0.5)
    assert (profile.max_temperature_c, profile.max_slowdown) == (75, 2.5)


@pytest.mark.parametrize("key", ["Pixel_6", "RPI4.lab-2", "Raspberry Pi 4", "a", "9", "x@y+z"])
@pytest.mark.parametrize(
    ("tracker", "host"), [("[::1]:9190", "::1"), ("[fe80::1%eth0]:9190", "fe80::1%eth0")]
)
def test_keys_that_any_tracker_lists_and_ipv6_addresses_read_back_the_same(
    tmp_path: Path, key: str, tracker: str, host: str
) -> None:
    text = GOOD.replace('"rpi4"', json.dumps(key)).replace("10.0.0.5:9190", tracker)
    profile = DeviceProfile.from_toml(write(tmp_path, text))
    assert (profile.key, profile.tracker) == (key, TrackerAddress(host, 9190))
    assert str(profile.tracker) == tracker
    again = tmp_path / "again.toml"
    again.write_text(profile.to_toml(), encoding="utf-8")
    assert DeviceProfile.from_toml(again) == profile


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("threads = 2", 'threads = 2\ndtype = "float16"\naccumulator = "float32"'),
        GOOD.replace('kind = "llvm"', 'kind = "llvm"\ncore_model = { lanes = 4, datapath = 2 }'),
        *(shipped_profiles()[key].read_text(encoding="utf-8") for key in ("local", HALF, BFLOAT)),
    ],
)
def test_a_written_profile_reads_back_the_same(tmp_path: Path, text: str) -> None:
    profile = DeviceProfile.from_toml(write(tmp_path, text))
    again = tmp_path / "again.toml"
    again.write_text(profile.to_toml(), encoding="utf-8")
    assert DeviceProfile.from_toml(again) == profile


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("threads = 2", "threads = 0"), ("threads", ">= 1", "0")),
        (("threads = 2", 'threads = "two"'), ("threads", "two")),
        (("threads = 2", "threads = 2\ncore = 1"), ("core", "threads must be 1", "2")),
        (("threads = 2", 'threads = 1\ncore = "first"'), ("core", "fastest", "first")),
        (("threads = 2", "thread = 2"), ("thread", "threads")),
        (("10.0.0.5:9190", "10.0.0.5"), ("tracker", "host:port", "10.0.0.5")),
        (("10.0.0.5:9190", "::1:9190"), ("tracker", "brackets", "::1:9190")),
        (("10.0.0.5:9190", "[10.0.0.5]:9190"), ("tracker", "brackets", "[10.0.0.5]")),
        (("10.0.0.5:9190", "[::1]:"), ("tracker", "host:port", "[::1]:")),
        (("10.0.0.5:9190", "[]:9190"), ("tracker", "host:port", "[]:9190")),
        (("10.0.0.5:9190", "user@host:9190"), ("tracker", "user@host")),
        (("10.0.0.5:9190", "host:٣"), ("tracker", "host:port")),
        (("10.0.0.5:9190", "10.0.0.5:99999"), ("tracker", "65535", "99999")),
        (('kind = "llvm"', ""), ("target", "kind")),
        (
            ('kind = "llvm"', 'kind = "llvm"\ncore_model = { lane = 4 }'),
            ("target.core_model.lane is not a key", "lanes"),
        ),
        (
            ('kind = "llvm"', 'kind = "llvm"\ncore_model = { lanes = 0 }'),
            ("target.core_model.lanes", ">= 1", "0"),
        ),
        (('kind = "llvm"', 'kind = "llvm"\nnum-cores = 4'), ("num-cores", "2", "4")),
        (('key = "rpi4"', ""), ("key", "missing")),
        (('key = "rpi4"', 'key = "rpi/4"'), ("key", "rpi/4")),
        (('key = "rpi4"', 'key = ".rpi4"'), ("key", ".rpi4")),
        (('key = "rpi4"', 'key = "rpi4 "'), ("key", "rpi4 ")),
        (('key = "rpi4"', 'key = "rpi:4"'), ("key", "rpi:4")),
        (('key = "rpi4"', f'key = "{"r" * 128}"'), ("key", "127")),
        (("max_temperature_c = 75", "max_temperature_c = 0"), ("max_temperature_c", "200", "0")),
        (("max_slowdown = 2.5", "max_slowdown = 1"), ("max_slowdown", "above 1", "1")),
        (
            ("threads = 2", 'threads = 2\ndtype = "half"'),
            ("dtype", "float32, float16 or bfloat16", "half"),
        ),
        (
            ("threads = 2", "threads = 2\ndtype = 16"),
            ("dtype", "float32, float16 or bfloat16", "16"),
        ),
        (
            ("threads = 2", 'threads = 2\ndtype = "float16"\naccumulator = "double"'),
            ("accumulator", "float32, float16 or bfloat16", "double"),
        ),
        (
            ("threads = 2", 'threads = 2\ndtype = "bfloat16"\naccumulator = "bfloat16"'),
            ("accumulator", "must be float32 where dtype is bfloat16", "'bfloat16'"),
        ),
        (
            ("threads = 2", 'threads = 2\naccumulator = "float16"'),
            ("accumulator", "must be float32 where dtype is float32", "float16"),
        ),
        (("repeat = 7", "repeat = 0"), ("timing.repeat", ">= 1", "0")),
        (("repeat = 7", "repeats = 7"), ("timing.repeats", "repeat")),
        (("cooldown_s = 0.5", "cooldown_s = -1"), ("timing.cooldown_s", "-1")),
        (("cooldown_s = 0.5", "max_spread = nan"), ("timing.max_spread", "nan")),
        (("[timing]", "[timing"), ("TOML",)),
    ],
)
def test_a_wrong_profile_gets_one_line_with_file_key_rule_and_value(
    tmp_path: Path, change: tuple[str, str], words: tuple[str, ...]
) -> None:
    assert change[0] in GOOD
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ProfileError) as caught:
        read_profile(str(path))
    message = str(caught.value)
    assert message.count("\n") == 0
    for word in (str(path), *words):
        assert word in message


def test_a_device_behind_a_tracker_cannot_have_this_machines_target(tmp_path: Path) -> None:
    text = 'key = "x"\ntarget = "host"\ntracker = "a:1"\n'
    with pytest.raises(ProfileError, match="target must be a table"):
        read_profile(str(write(tmp_path, text)))


def test_an_unknown_key_lists_what_exists_and_a_missing_file_is_named() -> None:
    with pytest.raises(ProfileError, match=r"'pixel99' is unknown; there are: .*local"):
        load_profile("pixel99")
    with pytest.raises(ProfileError, match=r"nowhere/x\.toml: cannot be read"):
        load_profile("nowhere/x.toml")


def test_reading_a_profile_and_listing_devices_import_neither_tvm_nor_torch() -> None:
    program = (
        "import sys; import tvm_mnas.devices.core.latency, tvm_mnas.devices.farm.farm as farm;"
        "from tvm_mnas.devices.core.profile import read_profile; read_profile('local');"
        "print([name for name in ('tvm', 'tvm_ffi', 'torch') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"
