"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tvm_mnas.errors import HostError

LEAST_ROOM_BYTES = 8 << 20
"""More than what one network leaves while it is compiled."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there when the block ends takes the place of `path` in one step.

    A reader, and a machine that loses power, have the file as it was or the new one, whole. It keeps the
    permissions of the file that it replaces. If the block raises, `path` stays as it was.

    Raises:
        OSError: if the file cannot be written.
    """
    # The process in the name, because two may write the same report or the same weights at once.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        if path.exists():
            shutil.copymode(path, part)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    # The new name is on the disk only once its directory is.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def atomic_write_text(path: Path, text: str) -> None:
    """Put `text` in UTF-8 in the place of the file at `path`, as `atomic_write` does."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at `path`, as `atomic_write` does."""
    with atomic_write(path) as part:
        part.write_bytes(content)


def require_room(directory: Path, *, least_bytes: int = LEAST_ROOM_BYTES) -> None:
    """Refuse to go on where the disk of `directory` is all but full.

    What compiles cannot be asked: LLVM ends the process, and other code writes half a file and says nothing.

    Raises:
        HostError: if there are less than `least_bytes` left.
    """
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < least_bytes:
        raise HostError(
            f"this machine cannot go on: {os.strerror(errno.ENOSPC)}, {free_bytes / 2**20:.1f} MiB at {directory}, "
            f"where {least_bytes / 2**20:.0f} MiB are needed; make room, then do the same again"
        )
