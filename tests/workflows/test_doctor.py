"""The examination of a device, on this machine's own."""

from __future__ import annotations

import pytest

from tvm_mnas.devices.core.profile import DeviceProfile, load_profile
from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.devices.servers.reach import Ssh
from tvm_mnas.workflows.doctor import Finding, diagnose, judge_state

FREE = {"frequency_khz": "2000000", "limit_khz": "2400000", "max_khz": "2400000"}
COOL = {"temperature_mc": "45000"}


@pytest.mark.timed
def test_this_machine_is_usable() -> None:
    steps = list(diagnose(load_profile("local")))
    assert [step.name for step in steps] == [
        *("answers", "runs kernels", "computes right", "steady times", "clock", "heat")
    ]
    by_name = {step.name: step for step in steps}
    for name in ("answers", "runs kernels", "computes right"):
        assert by_name[name].verdict is Finding.GOOD, by_name[name]
    # Clocks and heat may be unreadable, and a busy machine unsteady, but each says what to do then.
    assert all(step.remedy for step in steps if step.verdict is not Finding.GOOD)


def test_a_tracker_that_is_not_there_ends_it() -> None:
    tracker = TrackerAddress("127.0.0.1", free_port("127.0.0.1"))
    profile = DeviceProfile(key="x", target='{"kind": "llvm", "num-cores": 1}', tracker=tracker)
    (step,) = diagnose(profile)
    assert (step.name, step.verdict) == ("registered", Finding.FAILED)
    assert "python -m tvm.exec.rpc_tracker" in step.finding


def test_a_device_of_another_architecture_ends_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvm_mnas.devices.servers.reach.run_there", lambda reach, text: "mips")
    profile = load_profile("local")
    (step,) = diagnose(profile, reach=Ssh("board"))
    assert step.verdict is Finding.FAILED
    assert "it is a mips" in step.finding


@pytest.mark.parametrize(
    ("state", "clock", "heat"),
    [
        ({}, "not readable there", "not readable there"),
        (FREE | COOL, "2.40 GHz, not held back", "45 degrees Celsius before, 45 after"),
        (FREE | {"limit_khz": "1800000"} | COOL, "held to 1.80 of 2.40 GHz", "45 degrees"),
        (FREE | {"governor": "ondemand"} | COOL, "the governor ondemand changes it", "45 degrees"),
        (FREE | {"temperature_mc": "91000"}, "2.40 GHz", "91 degrees Celsius before, 91 after"),
    ],
)
def test_clocks_and_heat_are_judged(state: dict[str, str], clock: str, heat: str) -> None:
    steps = list(judge_state(state, state))
    assert [step.name for step in steps] == ["clock", "heat"]
    assert steps[0].finding.startswith(clock)
    assert steps[1].finding.startswith(heat)
    good = state.get("governor") is None and state.get("limit_khz") == "2400000"
    assert (steps[0].verdict is Finding.GOOD) == good
    assert (steps[1].verdict is Finding.GOOD) == (state.get("temperature_mc") == "45000")


def test_the_heat_that_a_profile_allows_is_what_counts() -> None:
    warm = FREE | {"temperature_mc": "70000"}
    for hot_c, verdict in ((80.0, Finding.GOOD), (65.0, Finding.WARNING)):
        assert list(judge_state(warm, warm, hot_c=hot_c))[1].verdict is verdict
