"""The file of a study: opened, and put in order after a process was killed while it wrote."""

from __future__ import annotations

import functools
import json
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import RunError
from tvm_mnas.files import atomic_write

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def journal_storage(journal: Path) -> BaseStorage:
    """Return the storage of a journal, a file."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileOpenLock

    path = str(journal)
    # Optuna's usual lock is a symbolic link, which not every file system has.
    return JournalStorage(_journal_file()(path, JournalFileOpenLock(path)))


@functools.cache
def _journal_file() -> Any:
    """Return Optuna's class for journals, less where each of their lines begins: that grows by 4 KiB a trial."""
    from optuna.storages.journal import JournalFileBackend

    class JournalFile(JournalFileBackend):
        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            yield from super().read_logs(log_number_from)
            # A study is read from where its reader was; whoever begins anew finds each line again.
            last = max(self._log_number_offset)
            self._log_number_offset = {0: 0, last: self._log_number_offset[last]}

    return JournalFile


def repair_journal(journal: Path) -> None:
    """Remove blank lines and a last line without an end, and part lines that ran together; hold the run's lock.

    Nothing that was finished is in what is removed. A file that is not there is in order.

    Raises:
        RunError: naming the line, if one can be no entry; the file stays as it is.
    """
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return
    whole, newline, torn = content.rpartition(b"\n")
    if torn and not newline and not torn.startswith(b"{"):
        raise damaged_journal(journal, "no line of it is one of a journal")
    lines = whole.split(b"\n") if newline else []
    entries: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        # Reading every line as JSON would take seconds for a long study; Optuna reads them anyway.
        odd = not line.strip() or b"}{" in line or number == len(lines)
        entries += _entries(journal, number, line) if odd else [line]
    repaired = b"".join(entry + b"\n" for entry in entries)
    if repaired == content:
        return
    with atomic_write(journal) as part:
        part.write_bytes(repaired)


def damaged_journal(journal: Path, reason: str) -> RunError:
    """Return the error of a journal that cannot be read."""
    return RunError(
        f"cannot read the study {journal}: {_first_bad_line(journal) or reason}; restore it from a copy, or "
        f"start a new search with `tvm-mnas search`"
    )


def _entries(journal: Path, number: int, line: bytes) -> list[bytes]:
    """Return the entries in a line: none in a blank one, several where an end of line was lost."""
    entries: list[bytes] = []
    try:
        text = line.decode("utf-8").strip()
        while text:
            _, end = json.JSONDecoder().raw_decode(text)
            entries.append(text[:end].encode("utf-8"))
            text = text[end:].lstrip()
    except ValueError as error:
        raise damaged_journal(journal, f"line {number} is no entry ({error})") from error
    return entries


def _first_bad_line(journal: Path) -> str | None:
    """Return which line of a journal is no entry and why, None if each is one."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        return error.strerror
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            return (
                f"line {number} is blank, which `tvm-mnas search --resume {journal.parent}` mends"
            )
        try:
            json.loads(line)
        except ValueError as error:
            return f"line {number} is no JSON ({error})"
    return None
