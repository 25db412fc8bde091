"""Where a study is kept: in the journal of its run, or in a database, by a URL that Optuna takes.

A database may be restarted, or out of reach for a while: a search waits for it, says so once, and goes on. Nothing is
written twice by that, since what was written before the connection was lost is looked at first.

Who works on a study in a database keeps a lease in it, the study's attribute `driver`, renewed every few seconds: a
run directory's own lock does not reach a copy of it on another machine.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tvm_mnas.errors import ConfigError, RunError, TvmMnasError
from tvm_mnas.evaluation.results import Evaluation

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

DRIVER = "driver"
EVALUATION_ATTRIBUTE = "evaluation"
RENEWED_S = 10.0
"""How often a lease is renewed."""
SILENT_S = 35.0
"""Whoever gives no sign for so long is gone."""
WAIT_S = 600.0
"""How long a search waits for its database."""
_RETRY_S = 1.0
_LOOK_S = 0.5
_SETTLE_S = 0.5
"""How long after taking a lease it is looked at again."""


def check_storage(url: str) -> None:
    """Refuse what is no URL of a database, and one with a password, which the run's directory would keep.

    Raises:
        ConfigError: saying what is wrong with it.
    """
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url:
        raise ConfigError(
            f"a study is kept in a database by its URL, and {url!r} is none; for example "
            f"--storage postgresql://me@db.example.org/studies"
        )
    if parts.password:
        raise ConfigError(
            "a password would be kept with the run; leave it out of --storage, and put it into ~/.pgpass or the "
            "variable PGPASSWORD"
        )


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


def database_storage(
    url: str, *, on_wait: Callable[[str], None] = lambda text: None, wait_s: float = WAIT_S
) -> BaseStorage:
    """Return the storage of the database at `url`, which waits where that is out of reach; `on_wait` gets a line then.

    Raises:
        ConfigError: if there is no such kind of database, or its driver is not installed.
        RunError: if the database cannot be reached now.
    """
    import sqlalchemy
    from optuna.exceptions import StorageInternalError
    from optuna.storages._cached_storage import _CachedStorage

    check_storage(url)
    try:
        backend = _patient_storage()(
            url, engine_kwargs={"pool_pre_ping": True}, on_wait=on_wait, wait_s=wait_s
        )
    except (ImportError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(
            f"cannot use the database {url}: {error}; for PostgreSQL, `pip install 'tvm-mnas[postgresql]'`"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise RunError(f"cannot reach the database {url}: {_reason(error)}; is it up?") from error
    # What Optuna does with a URL: a finished trial is read once.
    return _CachedStorage(backend)


def check_new_study(url: str, name: str) -> None:
    """Look whether the database at `url` can be used, and has no study called `name` yet.

    Raises:
        ConfigError: if the URL is of no database, or has a password.
        RunError: if the database cannot be reached, or has such a study.
    """
    import optuna

    storage = database_storage(url)
    if name in optuna.get_all_study_names(storage):
        raise RunError(
            f"a new search needs a study of its own, and {url} has one called {name}; name another with --study, or go "
            f"on with its run: `tvm-mnas search --resume RUN`"
        )


@functools.cache
def _patient_storage() -> Any:
    """Return Optuna's class for databases, each of whose methods waits for the database and tries again."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import BaseStorage, RDBStorage

    lost = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, StorageInternalError)

    def patient(name: str) -> Callable[..., Any]:
        method = getattr(RDBStorage, name)

        @functools.wraps(method)
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            end: float | None = None
            while True:
                try:
                    result = method(self, *arguments, **named)
                except lost as error:
                    end = end or time.monotonic() + self.wait_s
                    if time.monotonic() > end:
                        raise RunError(
                            f"the database stayed out of reach for {self.wait_s:.0f} s ({_reason(error)}); what was "
                            f"finished is there, and `tvm-mnas search --resume RUN` goes on"
                        ) from error
                    self.wait(_reason(error))
                except UpdateFinishedTrialError:
                    if end is None:
                        raise
                    # Written before the connection was lost.
                    return True
                else:
                    self.waiting = False
                    return result

        return call

    class PatientStorage(RDBStorage):
        def __init__(
            self, url: str, *, on_wait: Callable[[str], None], wait_s: float, **named: Any
        ) -> None:
            self.on_wait, self.wait_s = on_wait, wait_s
            self.waiting = False
            super().__init__(url, **named)

        def wait(self, reason: str) -> None:
            if not self.waiting:
                # Once, whichever of the threads meets it first.
                self.waiting = True
                self.on_wait(f"the database is out of reach, waits for it ({reason})")
            time.sleep(_RETRY_S)

        def _create_new_trial(self, study_id: int, template_trial: Any = None) -> Any:
            # Asked for twice, a trial would be two: what came of the first time is looked at.
            number = self.get_n_trials(study_id)
            while True:
                try:
                    return super()._create_new_trial(study_id, template_trial)
                except lost as error:
                    self.wait(_reason(error))
                    if self.get_n_trials(study_id) > number:
                        found = self.get_trial_id_from_study_id_trial_number(study_id, number)
                        return self.get_trial(found)

    public = [name for name in dir(BaseStorage) if not name.startswith("_")]
    # What Optuna's cache calls past the public ones; that a parameter is there already it takes for success.
    for name in (*public, "_get_trials", "_set_trial_param"):
        if name not in ("create_new_trial", "remove_session"):
            setattr(PatientStorage, name, patient(name))
    return PatientStorage


def _reason(error: BaseException) -> str:
    """Return the first line of what the database's driver says."""
    cause = error.__cause__ or error
    return (
        str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    ).splitlines()[0]


def make_compact(
    trials: Iterable[FrozenTrial],
    distributions: Mapping[str, CategoricalDistribution],
) -> None:
    """Have finished `trials` take a tenth of their memory: a storage keeps what it reads, for each trial anew.

    They share these `distributions` and the choices in them, if theirs are equal, and hold their evaluation packed, as
    `read_evaluation` takes it.
    """
    shared: dict[str, BaseDistribution] = dict(distributions)
    for trial in trials:
        if trial.distributions == shared:
            trial.params = {
                name: one.choices[one.choices.index(trial.params[name])]
                for name, one in distributions.items()
            }
            trial.distributions = shared
        value = trial.user_attrs.get(EVALUATION_ATTRIBUTE)
        if value is not None and not isinstance(value, bytes):
            text = json.dumps(value, separators=(",", ":"))
            packed = zlib.compress(text.encode())
            trial.user_attrs = {**trial.user_attrs, EVALUATION_ATTRIBUTE: packed}


def read_evaluation(trial: FrozenTrial, path: Path) -> Evaluation | None:
    """Return the evaluation stored with `trial`, or None if there is none yet.

    Raises:
        RunError: naming the run directory `path`, if what is stored cannot be read.
    """
    values = trial.user_attrs.get(EVALUATION_ATTRIBUTE)
    if values is None:
        return None
    try:
        if isinstance(values, bytes):
            values = json.loads(zlib.decompress(values))
        return Evaluation.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError, TvmMnasError) as error:
        raise RunError(
            f"{path}: the evaluation of trial {trial.number} cannot be read "
            f"({type(error).__name__}: {error}); restore study.journal from a copy"
        ) from error


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
