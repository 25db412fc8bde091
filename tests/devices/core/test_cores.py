"""Quotas of containers and the fastest core, from the kernel's files; a real control group; who builds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tvm_mnas.devices.core import cores
from tvm_mnas.devices.core.cores import (
    CorePlan,
    cpu_quota,
    fastest_core,
    plan_cores,
    throttled_us,
    usable_processes,
)

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_OTHER = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(path: str, **groups: str) -> dict[str, str]:
    """A machine of version 2, we in the group `path`; each group has its `cpu.max`."""
    files = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2_MOUNT + "\n"}
    for group, text in groups.items():
        files[f"sys/fs/cgroup/{group.replace('_', '/')}/cpu.max"] = text + "\n"
    return files


def v1(path: str, *, mounted: str = "/", quota_us: str, group: str = "") -> dict[str, str]:
    directory = f"sys/fs/cgroup/cpu,cpuacct/{group}"
    return {
        "proc/self/cgroup": f"5:memory:/elsewhere\n4:cpu,cpuacct:{path}\n1:name=systemd:/\n",
        "proc/self/mountinfo": f"{V1_OTHER}\n{V1_MOUNT.format(root=mounted)}\n",
        f"{directory}/cpu.cfs_quota_us": quota_us + "\n",
        f"{directory}/cpu.cfs_period_us": "100000\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (v2("/"), None),
        (v2("/", **{"": "max 100000"}), None),
        (v2("/", **{"": "150000 100000"}), 1.5),
        (v2("/a/b", a_b="400000 100000", a="max 100000"), 4.0),
        (v2("/a/b", a_b="400000 100000", a="250000 100000"), 2.5),
        (v2("/a/b", a_b="max 100000", other="100000 100000"), None),
        (v2("/", **{"": "nonsense"}), None),
        (v2("/", **{"": "100000 0"}), None),
        (v1("/", quota_us="-1"), None),
        (v1("/", quota_us="50000"), 0.5),
        (v1("/docker/ab", mounted="/docker/ab", quota_us="300000"), 3.0),
        (v1("/docker/ab", quota_us="300000", group="docker/ab"), 3.0),
        # The path is the host's, the mount another's: what is mounted is what bounds us.
        (v1("/docker/ab", mounted="/kubepods/x", quota_us="200000"), 2.0),
        ({"proc/self/cgroup": "garbage\n", "proc/self/mountinfo": "garbage - x\n"}, None),
    ],
)
def test_a_quota_is_the_least_of_our_groups_and_those_above(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    assert cpu_quota(root=tree(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("quota_us", "count", "expected"),
    [("max", 8, 8), ("250000", 8, 2), ("1600000", 8, 8), ("50000", 8, 1), ("250000", 1, 1)],
)
def test_no_more_processes_than_the_quota_has_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota_us: str, count: int, expected: int
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: tuple(range(count)))
    root = tree(tmp_path, v2("/", **{"": f"{quota_us} 100000"}))
    assert usable_processes(root=root) == expected


def test_what_was_throttled_is_told_in_microseconds_where_there_is_a_quota(tmp_path: Path) -> None:
    assert throttled_us(root=tmp_path) is None
    root = tree(tmp_path / "v2", v2("/a", a="200000 100000", **{"": "max 100000"}))
    assert throttled_us(root=root) is None
    tree(root, {"sys/fs/cgroup/a/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 4500\n"})
    assert throttled_us(root=root) == 4500
    root = tree(tmp_path / "v1", v1("/", quota_us="100000"))
    tree(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_throttled 3\nthrottled_time 4500999\n"})
    assert throttled_us(root=root) == 4500
    root = tree(tmp_path / "free", v1("/", quota_us="-1"))
    tree(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_throttled 0\nthrottled_time 0\n"})
    assert throttled_us(root=root) is None


def clocks(**khz: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/{core}/cpufreq/cpuinfo_max_freq": text
        for core, text in khz.items()
    }


def capacities(**capacity: str) -> dict[str, str]:
    return {f"sys/devices/system/cpu/{core}/cpu_capacity": text for core, text in capacity.items()}


@pytest.mark.parametrize(
    ("files", "allowed", "expected"),
    [
        ({}, (0, 1, 2, 3), 3),
        # Big cores first, as on many phones, and last, as on others.
        (capacities(cpu0="1024", cpu1="1024", cpu2="446", cpu3="446"), (0, 1, 2, 3), 1),
        (capacities(cpu0="446", cpu1="446", cpu2="871", cpu3="1024"), (0, 1, 2, 3), 3),
        (capacities(cpu0="1024", cpu1="1024", cpu2="446", cpu3="446"), (2, 3), 3),
        # A core of less capacity may have the higher clock.
        (
            capacities(cpu0="1024", cpu1="512") | clocks(cpu0="2000000", cpu1="2800000"),
            (0, 1),
            0,
        ),
        (clocks(cpu0="5200000", cpu1="5400000", cpu2="4100000", cpu3="4100000"), (0, 1, 2, 3), 1),
        # Older kernels name the performance cores of a hybrid processor and nothing else.
        ({"sys/devices/cpu_core/cpus": "0-1,4\n"}, (0, 1, 2, 3, 4, 5), 4),
        ({"sys/devices/cpu_core/cpus": "0-1\n"} | clocks(cpu2="9000000"), (0, 1, 2), 1),
        ({"sys/devices/cpu_core/cpus": "odd\n"} | clocks(cpu0="soon"), (0, 1), 1),
    ],
)
def test_the_fastest_core_is_found_among_those_we_may_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    allowed: tuple[int, ...],
    expected: int,
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: allowed)
    assert fastest_core(root=tree(tmp_path, files)) == expected


def test_this_machine_has_a_fastest_core_that_we_may_use() -> None:
    assert fastest_core() in cores.available_cores()
    assert 1 <= usable_processes() <= len(cores.available_cores())


@contextlib.contextmanager
def real_group(name: str) -> Iterator[Path]:
    """A control group of half a core, version 1 or 2."""
    for parent, quota in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "10000"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": "10000 20000"}),
    ):
        group = parent / name
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
            for file, text in quota.items():
                (group / file).write_text(text)
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.05)
        return
    pytest.skip("no control group can be made here")


def test_in_a_real_group_the_quota_is_found_and_what_it_stops_is_counted() -> None:
    script = """
import os, sys, time
from tvm_mnas.devices.core.cores import cpu_quota, throttled_us, usable_processes
open(sys.argv[1], "w").write(str(os.getpid()))
before = throttled_us()
end = time.monotonic() + 30
while throttled_us() < 50_000 and time.monotonic() < end:
    pass
print(cpu_quota(), usable_processes(), before, throttled_us())
"""
    with real_group(f"tvm-mnas-test-{os.getpid()}") as group:
        done = subprocess.run(
            [sys.executable, "-c", script, str(group / "cgroup.procs")],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        counts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    quota, processes, before, after = done.stdout.split()
    assert (quota, processes, before) == ("0.5", "1", "0")
    # How soon the quota stops it depends on what else the processors do; that it is counted in microseconds does not.
    kernels_us = (
        int(counts["throttled_usec"])
        if "throttled_usec" in counts
        else int(counts["throttled_time"]) // 1000
    )
    assert 50_000 <= int(after) <= kernels_us < 10 * int(after)


@pytest.mark.parametrize(
    ("cores", "most", "measuring", "expected"),
    [
        ((0, 1, 2, 3), 4, 3, CorePlan((0, 1, 2), (3,), True)),
        ((0, 1, 2, 3), 4, 1, CorePlan((0, 2, 3), (1,), True)),
        # A quota of two: one builds, one measures.
        ((0, 1, 2, 3), 2, 3, CorePlan((0,), (3,), True)),
        # A quota of one: what builds would stop what measures, whatever their cores.
        ((0, 1, 2, 3), 1, 3, CorePlan((0,), (), False)),
        ((0,), 1, 0, CorePlan((0,), (), False)),
        # Another machine measures, or nobody knows on which core.
        ((0, 1, 2, 3), 4, None, CorePlan((0, 1, 2, 3), (), True)),
        ((0, 1, 2, 3), 2, None, CorePlan((0, 1), (), True)),
        ((4, 5), 1, None, CorePlan((4,), (), True)),
    ],
)
def test_cores_are_shared_between_builders_and_what_measures(
    cores: tuple[int, ...], most: int, measuring: int | None, expected: CorePlan
) -> None:
    assert plan_cores(cores, most=most, measuring=measuring) == expected
