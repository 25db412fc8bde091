"""What a search is asked to do: one frozen dataclass, filled from a TOML file and flags, saved with the run.

Flags win over the file, the file over the defaults; the defaults are the small search that needs no device and
no data. The resolved configuration is written to the run directory, and a resumed run reads it from there, so
there is one source of truth.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType

import tomli_w

from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import (
    ALGORITHMS,
    DATA_SOURCES,
    DEVICE_EVALUATOR,
    EVALUATORS,
    EXECUTORS,
    TRAINERS,
)

CLASSIFICATION = "classification"
DETECTION_TASK = "detection"
TASKS = (CLASSIFICATION, DETECTION_TASK)
DETECTION: Mapping[str, object] = MappingProxyType(
    {
        "space": "drawn-160",
        "data": "drawn",
        "recipe": "drawn",
        "target_latency_ms": 1.0,
        "trials": 12,
    }
)
"""The settings of a small search for a detector, which needs no device and no data either."""

_MAY_BE_EMPTY = ("storage", "study")
_SHARE = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<percent>%?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Everything that decides a search's result, apart from the machine and its clock.

    `target_latency_ms`, `alpha` and `beta` are T and the exponents of equations 2 and 3 of the paper. A batch is
    the number of candidates between two updates of the controller; candidates are sampled from the policy that ended
    `lag` batches before their own, so that `lag` + 1 batches are in flight. `recipe` says how candidates are trained;
    of its values `train_steps`, `train_epochs`, `train_batch` and `learning_rate` may be others, 0 leaves them.
    `finalists` are retrained for `final_steps` (0: four times as long as candidates) before one of them is named the
    best.
    Every `replicates`-th candidate is trained a second time, with another seed, to tell how much an accuracy means;
    0 leaves that out.
    `max_untuned_share` (0..1) of a network's run time may be in kernels without
    a tuning record; 0 refuses a network with any. Up to `max_bad_images` of each split that cannot be decoded are
    passed over. `storage` is the URL of a database that keeps the study under the name `study`; empty, the run's
    directory does. `evaluator` says where accuracies and latencies come from: this machine and the device, or a table.
    `space`, `data`, `algorithm`, `trainer`, `executor` and `evaluator` may name parts of one's own (`plugins.py`).
    `task` is what networks are found for; for detection the space's networks are the backbones of detectors, and
    defaults are those of `DETECTION`.
    Raises `ConfigError` where a value breaks a rule.
    """

    task: str = CLASSIFICATION
    space: str = "quickstart"
    device: str = "local"
    data: str = "embedded"
    max_bad_images: int = 0
    target_latency_ms: float = 0.05
    alpha: float = -0.07
    beta: float = -0.07
    algorithm: str = "ppo"
    trainer: str = "proxy"
    executor: str = "local"
    evaluator: str = DEVICE_EVALUATOR
    trials: int = 28
    batch: int = 4
    lag: int = 0
    seed: int = 0
    recipe: str = "embedded"
    train_steps: int = 0
    train_epochs: float = 0.0
    train_batch: int = 0
    learning_rate: float = 0.0
    train_device: str = "auto"
    replicates: int = 4
    schedules_per_kernel: int = 8
    max_untuned_share: float = 0.0
    finalists: int = 2
    final_steps: int = 0
    jobs: int = 0
    records: str = "tuning_logs"
    storage: str = ""
    study: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        _at_least(self, 1, "trials", "batch", "schedules_per_kernel", "finalists")
        _at_least(self, 0, "seed", "jobs", "max_bad_images", "final_steps", "replicates", "lag")
        _at_least(self, 0, "train_steps", "train_epochs", "train_batch", "learning_rate")
        if not self.target_latency_ms > 0:
            raise ConfigError(f"target_latency_ms must be above 0, not {self.target_latency_ms}")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if value > 0:
                raise ConfigError(
                    f"{name} must be at most 0 (the paper takes -0.07, 0 or -1), not {value}"
                )
        check_untuned_share(self.max_untuned_share)
        if self.task not in TASKS:
            raise ConfigError(f"task must be {' or '.join(TASKS)}, not {self.task!r}")
        ALGORITHMS.check(self.algorithm)
        TRAINERS.check(self.trainer)
        EXECUTORS.check(self.executor)
        EVALUATORS.check(self.evaluator)

    def with_defaults_of_its_task(self) -> SearchConfig:
        """Return it with what was left as in a search for classifiers taken from the defaults of its task."""
        if self.task != DETECTION_TASK:
            return self
        common = SearchConfig()
        left = {
            name: value
            for name, value in DETECTION.items()
            if getattr(self, name) == getattr(common, name)
        }
        return replace(self, **left)  # type: ignore[arg-type]  # checked in __post_init__

    def located(self, directory: Path) -> SearchConfig:
        """Return it with every relative path in it taken from `directory`: a run is resumed from anywhere."""
        return replace(
            self,
            records=os.path.normpath(directory / self.records),
            data=_located_data(self.data, directory),
            space=_located(self.space, directory),
            device=_located(self.device, directory),
            algorithm=_located(self.algorithm, directory),
            trainer=_located(self.trainer, directory),
            executor=_located(self.executor, directory),
            evaluator=_located_evaluator(self.evaluator, directory),
            recipe=_located(self.recipe, directory),
            storage=_located_database(self.storage, directory),
        )

    def to_toml(self) -> str:
        """Return the configuration as TOML, which `from_mapping` reads back to an equal one."""
        return tomli_w.dumps(asdict(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, source: str) -> SearchConfig:
        """Return the configuration that `values` make over the defaults, which go with the task.

        Raises:
            ConfigError: naming `source` and the key, if a key is unknown or a value breaks a rule.
        """
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise ConfigError(f"{source}: {key} is not a setting, only {', '.join(names)} are")
        if values.get("task") == DETECTION_TASK:
            values = {**DETECTION, **values}
        try:
            return cls(**values)  # type: ignore[arg-type]  # checked in __post_init__
        except ConfigError as error:
            raise ConfigError(
                f"{source}: {error}; `tvm-mnas search --help` says what each setting is"
            ) from error


def check_untuned_share(share: float) -> None:
    """Refuse a `max_untuned_share` that is none.

    Raises:
        ConfigError: if it is below 0, or lets in a network without a tuned kernel.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"max_untuned_share must be 0 or more and below 1, not {share}")


def parse_untuned_share(text: str) -> float:
    """Return the part (0..1) of the run time that `text` states, such as `5%` or `0.05`.

    Raises:
        ConfigError: if it is neither a percentage nor a fraction, or not below 100%.
    """
    match = _SHARE.fullmatch(text.strip())
    share = float(match["number"]) / (100 if match["percent"] else 1) if match else math.inf
    try:
        check_untuned_share(share)
    except ConfigError as error:
        raise ConfigError(
            f"a part of the run time must be a percentage or a fraction below 1, not {text!r}: "
            f"write, for example, --allow-untuned 5%"
        ) from error
    return share


def read_settings(path: Path) -> dict[str, object]:
    """Return the settings in the TOML file `path`, not yet checked.

    Raises:
        ConfigError: if the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: a settings file can be read, and this one cannot ({error.strerror}); "
            f"`ls -l {path}` shows what is there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: a settings file is valid TOML, and this one is not ({error}); "
            f"correct that place, or restore the file"
        ) from error


def _located(part: str, directory: Path) -> str:
    """Return the name of a part with its file, if it is in one, taken from `directory`."""
    file, colon, name = part.partition(":")
    if not file.endswith((".toml", ".py")):
        return part
    return f"{os.path.normpath(directory / file)}{colon}{name}"


def _located_database(url: str, directory: Path) -> str:
    scheme, slashes, path = url.partition(":///")
    if scheme != "sqlite" or not slashes or path.startswith("/"):
        return url
    return f"{scheme}:///{os.path.normpath(directory / path)}"


def _located_evaluator(text: str, directory: Path) -> str:
    kind, colon, table = text.partition(":")
    # A table that ships has a name; one of the user's own lies somewhere.
    if kind == "table" and (directory / table).is_dir():
        return f"{kind}{colon}{os.path.normpath(directory / table)}"
    return _located(text, directory)


def _located_data(spec: str, directory: Path) -> str:
    kind, colon, location = spec.partition(":")
    if kind in DATA_SOURCES.shipped and location:
        return f"{kind}{colon}{os.path.normpath(directory / location)}"
    return _located(spec, directory)


def _check_type(name: str, kind: str, value: object) -> None:
    legal = {
        "str": isinstance(value, str) and (bool(value) or name in _MAY_BE_EMPTY),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value),
    }[kind]
    if not legal:
        words = {"str": "a text that is not empty", "int": "a whole number", "float": "a number"}
        raise ConfigError(f"{name} must be {words[kind]}, not {value!r}")


def _at_least(config: SearchConfig, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value < least:
            raise ConfigError(f"{name} must be {least} or more, not {value}")
