"""A study in a database, by a URL that Optuna takes.

A database may be restarted, or out of reach for a while: a search waits for it, says so once, and goes on. Nothing is
written twice by that, since what was written before the connection was lost is looked at first.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tvm_mnas.errors import ConfigError, RunError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

WAIT_S = 600.0
"""How long a search waits for its database."""
_RETRY_S = 1.0


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
    from optuna.distributions import distribution_to_json
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.storages._rdb import models

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
            self.numbers: dict[int, int] = {}
            super().__init__(url, **named)

        def wait(self, reason: str) -> None:
            if not self.waiting:
                # Once, whichever of the threads meets it first.
                self.waiting = True
                self.on_wait(f"the database is out of reach, waits for it ({reason})")
            time.sleep(_RETRY_S)

        def _create_new_trial(self, study_id: int, template_trial: Any = None) -> Any:
            # Asked for twice, a trial would be two: what came of the first time is looked at. Counting them takes
            # longer with each, and whoever has the study knows which one it adds.
            number = self.numbers.get(study_id)
            if number is None:
                number = self.get_n_trials(study_id)
            self.numbers[study_id] = number + 1
            while True:
                try:
                    return super()._create_new_trial(study_id, template_trial)
                except lost as error:
                    self.wait(_reason(error))
                    if self.get_n_trials(study_id) > number:
                        found = self.get_trial_id_from_study_id_trial_number(study_id, number)
                        return self.get_trial(found)

        def _get_prepared_new_trial(
            self, study_id: int, template_trial: Any, session: Any
        ) -> models.TrialModel:
            # Optuna asks for the same parameter of all trials before it writes one: a hundred queries for a trial.
            if template_trial is None:
                return super()._get_prepared_new_trial(study_id, None, session)
            bare = copy.copy(template_trial)
            bare.params, bare.distributions = {}, {}
            trial = super()._get_prepared_new_trial(study_id, bare, session)
            session.flush()
            session.add_all(
                models.TrialParamModel(
                    trial_id=trial.trial_id,
                    param_name=name,
                    param_value=distribution.to_internal_repr(template_trial.params[name]),
                    distribution_json=distribution_to_json(distribution),
                )
                for name, distribution in template_trial.distributions.items()
            )
            return trial

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
