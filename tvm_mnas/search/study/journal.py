"""The file of a study: opened, and put in order after a process was killed while it wrote."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Container, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import RunError
from tvm_mnas.files import atomic_write_bytes

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.storages.journal import BaseJournalBackend
    from optuna.trial import FrozenTrial


def journal_storage(journal: Path) -> BaseStorage:
    """Return the storage of a journal, a file."""
    from optuna.storages.journal import JournalFileOpenLock

    storage_class, file_class = _lean_classes()
    path = str(journal)
    # Optuna's usual lock is a symbolic link, which not every file system has.
    storage: BaseStorage = storage_class(file_class(path, JournalFileOpenLock(path)))
    return storage


@functools.cache
def _lean_classes() -> tuple[Any, Any]:
    """Return Optuna's classes for a journal and its file, less what grows with each trial."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    class Journal(JournalStorage):
        """Knows the finished trials at the study's beginning: Optuna asks for those that wait before each new one."""

        def __init__(self, backend: BaseJournalBackend) -> None:
            self._settled: dict[int, list[FrozenTrial]] = {}
            super().__init__(backend)

        def get_all_trials(
            self,
            study_id: int,
            deepcopy: bool = True,
            states: Container[Any] | None = None,
        ) -> list[FrozenTrial]:
            with self._thread_lock:
                self._sync_with_backend()
                replayed = self._replay_result
                replayed.get_study(study_id)
                numbers = replayed._study_id_to_trial_ids[study_id]
                settled = self._settled.setdefault(study_id, [])
                later = [replayed._trials[one] for one in numbers[len(settled) :]]
                ended = itertools.takewhile(lambda trial: trial.state.is_finished(), later)
                before = len(settled)
                settled += ended
                later = later[len(settled) - before :]
                if states is None:
                    trials = settled + later
                else:
                    some = any(state.is_finished() and state in states for state in TrialState)
                    trials = [one for one in (settled if some else []) if one.state in states]
                    trials += [one for one in later if one.state in states]
                return copy.deepcopy(trials) if deepcopy else trials

    class JournalFile(JournalFileBackend):
        """Knows where its reader was, and not where each line begins: that would be 4 KiB a trial."""

        def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
            yield from super().read_logs(log_number_from)
            last = max(self._log_number_offset)
            self._log_number_offset = {0: 0, last: self._log_number_offset[last]}

    return Journal, JournalFile


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
    atomic_write_bytes(journal, repaired)


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
