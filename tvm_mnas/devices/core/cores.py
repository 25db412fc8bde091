"""Which of this machine's cores we may use, how many at once, which is the fastest, and who builds while one measures.

A container may see every core of its host and yet be stopped after a part of each period: its quota, set by a control
group (version 1 or 2). More processes than the quota has cores only wait for each other, and a measurement that is
stopped in its middle is no measurement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def available_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_processes(*, root: Path = _ROOT) -> int:
    """Return how many processes can compute at once: one for each core, as far as the quota goes, and at least one."""
    quota = cpu_quota(root=root)
    cores = len(available_cores())
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(*, root: Path = _ROOT) -> float | None:
    """Return how many cores' time this process and those beside it in its container may use; None where all of it.

    `root` is where `proc` and `sys` are mounted, as everywhere here.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def throttled_us(*, root: Path = _ROOT) -> int | None:
    """Return for how long the quota has stopped our container so far, in microseconds; None where there is none."""
    found: int | None = None
    for group in _groups(root):
        if _quota(group) is None:
            continue
        facts = dict(line.split(maxsplit=1) for line in _lines(group / "cpu.stat") if " " in line)
        with suppress(ValueError):
            if "throttled_usec" in facts:
                found = (found or 0) + int(facts["throttled_usec"])
            elif "throttled_time" in facts:
                found = (found or 0) + int(facts["throttled_time"]) // 1000
    return found


def fastest_core(*, root: Path = _ROOT) -> int:
    """Return the fastest core that this process may run on; of equally fast ones the last.

    What the kernel says of a core's capacity (ARM's big cores, newer hybrid ones) goes before its highest clock.
    """
    large = _core_list(_word(root / "sys/devices/cpu_core/cpus"))

    def rank(core: int) -> tuple[int, bool, int, int]:
        directory = root / f"sys/devices/system/cpu/cpu{core}"
        capacity = _number(directory / "cpu_capacity")
        return capacity, core in large, _number(directory / "cpufreq/cpuinfo_max_freq"), core

    return max(available_cores(), key=rank)


@dataclass(frozen=True, slots=True)
class CorePlan:
    """The cores with a builder each, those that may help between measurements, and whether both go on at once."""

    building: tuple[int, ...]
    borrowed: tuple[int, ...]
    overlap: bool


def plan_cores(cores: Sequence[int], *, most: int, measuring: int | None) -> CorePlan:
    """Return how `cores`, of which at most `most` can compute at once, are shared with what measures.

    `measuring` is the core of this machine on which kernels are timed, None where another machine does that, or any
    core may be used for it. A machine of one core builds on it too; then nothing is measured meanwhile.
    """
    if measuring is None:
        return CorePlan(tuple(cores[:most]), (), True)
    others = [core for core in cores if core != measuring]
    if not others or most < 2:
        return CorePlan(tuple((others or cores)[:1]), (), False)
    building = tuple(others[: most - 1])
    return CorePlan(building, (measuring,), True)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the directories of the control groups that bound our processor time, from ours up to the topmost seen."""
    own = dict(_memberships(root))
    for line in _lines(root / "proc/self/mountinfo"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        version = {"cgroup": 1, "cgroup2": 2}.get(kind[0])
        if (
            version is None
            or version not in own
            or (version == 1 and "cpu" not in kind[2].split(","))
        ):
            continue
        mounted, mount_root = root / fields[4].lstrip("/"), PurePosixPath(fields[3])
        path = PurePosixPath(own[version])
        # In a container the path may be the host's, of which only what lies below the mount's root is seen.
        below = path.relative_to(mount_root) if path.is_relative_to(mount_root) else PurePosixPath()
        group = mounted / below
        yield group
        for _ in below.parts:
            group = group.parent
            yield group


def _memberships(root: Path) -> Iterator[tuple[int, str]]:
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _quota(group: Path) -> float | None:
    limit = _word(group / "cpu.max").split()
    if not limit:
        limit = [_word(group / "cpu.cfs_quota_us"), _word(group / "cpu.cfs_period_us")]
    with suppress(ValueError, IndexError, ZeroDivisionError):
        quota = int(limit[0]) / int(limit[1])
        return quota if quota > 0 else None
    return None


def _core_list(text: str) -> frozenset[int]:
    """Return the cores of a list as the kernel writes it: "0-3,8"."""
    cores: set[int] = set()
    with suppress(ValueError):
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def _number(path: Path) -> int:
    with suppress(ValueError):
        return int(_word(path))
    return 0


def _word(path: Path) -> str:
    return "".join(_lines(path)[:1]).strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
