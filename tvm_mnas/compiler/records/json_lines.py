"""A file of JSON lines that several processes append to: read where it grew, a torn end cut off, replaced whole.

A reader remembers places in the file. It keeps the file open, so that a place stays true when the file is
replaced by another of the same name, and it can tell that this happened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tvm_mnas.errors import RecordsError
from tvm_mnas.files import atomic_write

_LOGGER = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 20
_LOCK = ".lock"

_NO_LOCK = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

Place = tuple[int, int]
"""Where a line lies in its file: offset and size in bytes."""

_Value = TypeVar("_Value")


@contextlib.contextmanager
def hold_lock(directory: Path, *, alone: bool) -> Iterator[None]:
    """Hold the lock of the files in `directory`: alone to change them, otherwise with other readers.

    A reader makes no lock: where there is none, or none that it may open, or the file system knows none, it reads
    without.

    Raises:
        OSError: if `alone` and the lock cannot be made.
    """
    path = directory / _LOCK
    with contextlib.ExitStack() as stack:
        if alone:
            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        else:
            try:
                fcntl.flock(stack.enter_context(path.open("r")), fcntl.LOCK_SH)
            except OSError as error:
                if error.errno not in _NO_LOCK:
                    raise
        yield


class LineReader:
    """Reads a growing file of lines, each once, and any line again by its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.line = 0
        self._file: int | None = None
        self._closes: weakref.finalize[[int], LineReader] | None = None

    def replaced(self) -> bool:
        """Whether the path leads to another file than the one that was read, or to none any more.

        A file that this reader holds open keeps its inode, so that no other can come by the same number.
        """
        if self._file is None:
            return False
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return True
        mine = os.fstat(self._file)
        return (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino) or now.st_size < self.offset

    def restart(self) -> None:
        """Forget what was read; the next reading starts at the beginning of the file at the path."""
        if self._closes is not None:
            self._closes()
        self._file = self._closes = None
        self.offset = self.line = 0

    def fresh(
        self, parse: Callable[[bytes], _Value], *, cut: bool
    ) -> Iterator[tuple[_Value, Place]]:
        """Yield what `parse` makes of each line appended since the last call, with its place.

        `parse` raises ValueError for a line that is none. As the last one it was torn by a crash or a full disk:
        it is left out with a warning, and with `cut` it is cut off the file, for which the lock must be held.

        Raises:
            RecordsError: naming the line, if one is damaged that is not the last.
        """
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return
            self._closes = weakref.finalize(self, os.close, self._file)
        with open(self._file, "rb", buffering=_BUFFER_BYTES, closefd=False) as file:
            file.seek(self.offset)
            for text in file:
                self.line += 1
                try:
                    value = parse_whole(parse, text)
                except ValueError as error:
                    if file.read(1):
                        raise RecordsError(
                            f"{self.path}: each line is one record, and line {self.line} is not ({error}); "
                            f"drop it with `tvm-mnas records check --repair {self.path.parent}`"
                        ) from error
                    self.line -= 1
                    self._drop_end(cut=cut)
                    return
                place = (self.offset, len(text))
                self.offset += len(text)
                yield value, place

    def read(self, place: Place) -> bytes:
        """Return the line at a place that `fresh` gave, from the file that it was read from."""
        if self._file is None:
            raise ValueError(f"{self.path} was not read, so that there is no place in it")
        offset, size = place
        return os.pread(self._file, size, offset)

    def _drop_end(self, *, cut: bool) -> None:
        done = "is dropped" if cut else "is left out"
        _LOGGER.warning("%s: the last line was torn and %s: one record lost", self.path, done)
        if cut:
            os.truncate(self.path, self.offset)


def parse_whole(parse: Callable[[bytes], _Value], text: bytes) -> _Value:
    """Return what `parse` makes of the line `text`.

    Raises:
        ValueError: if it says so, or the line has no end.
    """
    if not text.endswith(b"\n"):
        raise ValueError("it has no end")
    return parse(text)


def append_lines(path: Path, lines: Iterable[bytes], *, durable: bool = False) -> None:
    """Append `lines`, each with its end, to the file: all of them, or none if the disk does not take them.

    The lock must be held. With `durable` they are on the disk afterwards, not only on their way.

    Raises:
        OSError: if they cannot be written. Should even taking back what was written fail, the file ends in a
            torn line, which its next reader drops.
    """
    data = memoryview(b"".join(lines))
    if not data:
        return
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(file).st_size
        try:
            while data:
                data = data[os.write(file, data) :]
            if durable:
                os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def replace_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Put a file of `lines`, each with its end, in the place of the file at `path`: whole, or not at all.

    The lock must be held.

    Raises:
        OSError: if it cannot be written; the file stays as it was.
    """
    with atomic_write(path) as part, part.open("wb", buffering=_BUFFER_BYTES) as file:
        file.writelines(lines)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of each line of a file; nothing if there is none."""
    try:
        file = path.open("rb", buffering=_BUFFER_BYTES)
    except FileNotFoundError:
        return
    with file:
        yield from enumerate(file, 1)
