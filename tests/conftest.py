"""What every test starts from: one thread per library, and text without colours."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Read when torch, OpenBLAS and TVM are first imported. Two cores are shared by what the tests start,
# and TVM would otherwise rebind its threads to the fastest cores.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TVM_BIND_THREADS", "0")

# A shell starts what it puts in the background with Ctrl-C ignored, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples each time: what a random one finds belongs to the long run, `--hypothesis-profile=long`.
settings.register_profile("short", max_examples=60, derandomize=True, deadline=None, database=None)
settings.register_profile(
    "long",
    max_examples=10_000,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("short")


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make printed text the same in a terminal, under CI and through a pipe."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


_LONGEST = (
    "tests/test_examples.py",
    "tests/integration/",
    "tests/workflows/",
    "tests/compiler/tuning/",
)
"""Begun first, so that no processor ends with one of them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take minutes before the others; within a file the order stays."""

    def rank(item: pytest.Item) -> int:
        path = item.nodeid
        found = (place for place, start in enumerate(_LONGEST) if path.startswith(start))
        return next(found, len(_LONGEST))

    items.sort(key=rank)
