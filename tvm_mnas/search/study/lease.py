"""Who works on a study in a database: one process, which signs every few seconds.

A run directory's own lock does not reach a copy of it on another machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import RunError

if TYPE_CHECKING:
    from optuna import Study

DRIVER = "driver"
"""The study's attribute with who works on it."""
RENEWED_S = 10.0
"""How often a lease is renewed."""
SILENT_S = 35.0
"""Whoever gives no sign for so long is gone."""
_LOOK_S = 0.5
_SETTLE_S = 0.5
"""How long after taking a lease it is looked at again."""


@contextlib.contextmanager
def leased(study: Study, *, where: str, owner: str | None = None) -> Iterator[None]:
    """Hold the study for this process; `where` names it in a message.

    Where another process has it, this looks for so long whether that one still gives signs.

    Raises:
        RunError: if it does.
    """
    mine = owner or f"{socket.gethostname()}:{os.getpid()}"
    _take(study, mine, where)
    ended = threading.Event()

    def renew() -> None:
        for sign in itertools.count(1):
            if ended.wait(RENEWED_S):
                return
            # The search itself waits for a database that is gone, and says so.
            with contextlib.suppress(Exception):
                study.set_user_attr(DRIVER, _lease(mine, sign))

    thread = threading.Thread(target=renew, name="tvm-mnas-lease-of-study", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(RENEWED_S)
        with contextlib.suppress(Exception):
            study.set_user_attr(DRIVER, None)


def _take(study: Study, mine: str, where: str) -> None:
    end = time.monotonic() + SILENT_S
    first = held = study.user_attrs.get(DRIVER)
    while (owner := _owner(held)) is not None and not _is_gone(owner):
        # Clocks of two machines differ: what counts is whether it signs again.
        if held != first:
            raise RunError(
                f"one process works on a study at a time, and {owner} has {where}; wait for it, or end it"
            )
        if time.monotonic() > end:
            break
        time.sleep(_LOOK_S)
        held = study.user_attrs.get(DRIVER)
    study.set_user_attr(DRIVER, _lease(mine, 0))
    # Of two that came at once, the one that wrote last has it.
    time.sleep(_SETTLE_S)
    if _owner(study.user_attrs.get(DRIVER)) != mine:
        raise RunError(
            f"one process works on a study at a time, and another took {where} just now; wait for it, or end it"
        )


def _lease(owner: str, sign: int) -> str:
    return json.dumps({"owner": owner, "sign": sign})


def _owner(lease: object) -> str | None:
    """Return who wrote a lease, None where nobody has the study."""
    try:
        return str(json.loads(str(lease))["owner"])
    except (ValueError, TypeError, KeyError):
        return None


def _is_gone(owner: str) -> bool:
    """Whether the process is one of this machine and has ended: after a `kill -9` nobody has to wait."""
    host, _, process = owner.rpartition(":")
    return (
        host == socket.gethostname()
        and process.isdigit()
        and not Path(f"/proc/{process}").exists()
        and Path("/proc").is_dir()
    )
