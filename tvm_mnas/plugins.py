"""The doors for parts of one's own: what each kind of part is called on the command line, and where it is found.

A part is named in one of three ways, and what ships with tvm-mnas comes through the same door:

    ppo                          a name: one that ships, or one that an installed package declares as an entry point
    package.module:object        something importable; the working directory is looked at too
    path/to/file.py:object       something in a file

| kind           | flag          | entry point group         | what it is                                             |
| -------------- | ------------- | ------------------------- | ------------------------------------------------------ |
| `TRAINERS`     | `--trainer`   | `tvm_mnas.trainers`       | `evaluation.trainers.Trainer`                          |
| `DATA_SOURCES` | `--data`      | `tvm_mnas.data_sources`   | `training.data.sources.DataSource`                     |
| `SPACES`       | `--space`     | `tvm_mnas.spaces`         | `space.network_space.NetworkSpace` or `SearchSpace`    |
| `ALGORITHMS`   | `--algorithm` | `tvm_mnas.algorithms`     | `search.algorithms.by_name.Algorithm`                  |
| `EXECUTORS`    | `--executor`  | `tvm_mnas.executors`      | what makes an `evaluation.executors.protocol.Executor` |
| `EVALUATORS`   | `--evaluator` | `tvm_mnas.evaluators`     | what makes an `evaluation.results.Evaluator`           |
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import ConfigError, raise_if_foreign

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints


def installed(group: str) -> EntryPoints:
    """Return what the installed packages offer under `group`."""
    # What it imports takes a tenth of a start of the command line, which seldom asks.
    from importlib.metadata import entry_points

    return entry_points(group=group)


@dataclass(frozen=True)
class Registry:
    """The parts of one `kind` by name; `shipped` maps names to references of objects in tvm-mnas itself.

    One of the names `with_text` is called with the `text` that may follow it after a colon.
    """

    kind: str
    group: str
    shipped: Mapping[str, str]
    with_text: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that can be given, those that ship first."""
        others = {entry.name for entry in installed(self.group)}
        return (*self.shipped, *sorted(others - set(self.shipped)))

    def knows(self, name: str) -> bool:
        """Whether `name` is one of `names`."""
        return name in self.shipped or name in self.names

    def check(self, text: str) -> None:
        """Refuse what can name no part, without importing anything.

        Raises:
            ConfigError: if `text` is neither a known name nor a reference.
        """
        named = self.knows(text) or text.partition(":")[0] in self.with_text
        if not named and not is_reference(text):
            raise ConfigError(
                f"unknown {self.kind} {text!r}: it is one of {', '.join(self.names)}, or "
                f"package.module:object, or file.py:object"
            )

    def load(self, text: str) -> Any:
        """Return the object that `text` names.

        Raises:
            ConfigError: if there is none, or its module cannot be imported.
        """
        self.check(text)
        if text in self.shipped:
            return load_object(self.shipped[text])
        name, _, rest = text.partition(":")
        if name in self.with_text:
            return partial(load_object(self.shipped[name]), text=rest)
        for entry in installed(self.group):
            if entry.name == text:
                return load_object(entry.value)
        return load_object(text)


TRAINERS = Registry(
    "trainer", "tvm_mnas.trainers", {"proxy": "tvm_mnas.evaluation.trainers:train_by_proxy"}
)
DATA_SOURCES = Registry(
    "data source",
    "tvm_mnas.data_sources",
    {
        "embedded": "tvm_mnas.training.data.sources:EMBEDDED",
        "imagefolder": "tvm_mnas.training.data.folder:SOURCE",
        "imagenet": "tvm_mnas.training.data.folder:SOURCE",
        "idx": "tvm_mnas.training.data.sources:IDX",
        "csv": "tvm_mnas.training.data.labels:SOURCE",
        "shards": "tvm_mnas.training.data.shards:SOURCE",
        "hub": "tvm_mnas.training.data.hub:SOURCE",
        "cache": "tvm_mnas.training.data.cache:SOURCE",
        "coco": "tvm_mnas.training.detection.sources:COCO",
        "voc": "tvm_mnas.training.detection.sources:VOC",
        "yolo": "tvm_mnas.training.detection.sources:YOLO",
        "drawn": "tvm_mnas.training.detection.sources:DRAWN",
    },
)
SPACES = Registry("space", "tvm_mnas.spaces", {})
ALGORITHMS = Registry(
    "algorithm",
    "tvm_mnas.algorithms",
    {
        name: f"tvm_mnas.search.algorithms.by_name:make_{name.replace('-', '_')}"
        for name in ("ppo", "ppo-paper", "evolution", "random", "tpe", "nsga2")
    },
)
EXECUTORS = Registry(
    "executor",
    "tvm_mnas.executors",
    {
        "local": "tvm_mnas.evaluation.executors.local:open_local",
        "inline": "tvm_mnas.evaluation.executors.inline:open_inline",
        "ray": "tvm_mnas.evaluation.executors.ray:open_ray",
    },
    with_text=("ray",),
)

DEVICE_EVALUATOR = "device"
"""Trains, compiles and measures: the search itself opens it."""
EVALUATORS = Registry(
    "evaluator",
    "tvm_mnas.evaluators",
    {
        DEVICE_EVALUATOR: "tvm_mnas.evaluation.pipeline:CandidatePipeline",
        "table": "tvm_mnas.evaluation.tables.evaluator:open_table",
    },
    with_text=("table",),
)


def is_reference(text: str) -> bool:
    """Whether `text` has the form of a reference: `package.module:object` or `file.py:object`."""
    module, colon, name = text.rpartition(":")
    return bool(colon and module) and all(part.isidentifier() for part in name.split("."))


def load_object(reference: str) -> Any:
    """Return the object that `reference` means: `package.module:object` or `file.py:object`.

    Raises:
        ConfigError: if the module cannot be imported or has no such object.
    """
    place, _, name = reference.rpartition(":")
    try:
        found: Any = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except Exception as error:
        raise_if_foreign(error)
        # Whatever somebody else's module raises while it is imported.
        raise ConfigError(
            f"cannot import {place!r} for {reference!r}: {type(error).__name__}: {error}; "
            f"check the name, and that the package is installed"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{place!r} has no {name!r}, which {reference!r} names; check it")
        found = getattr(found, part)
    return found


def reference_of(part: Any, *, what: str) -> str:
    """Return the reference under which a worker process, or a resumed search, finds `part` again.

    `part` is a function or class at the top level of its module, or an object that a module at hand has a name for.

    Raises:
        ConfigError: if it has none.
    """
    name = getattr(part, "__qualname__", None)
    if inspect.isfunction(part) or inspect.isclass(part):
        if name is not None and "<" not in name:
            return f"{_place_of(sys.modules[part.__module__])}:{name}"
    else:
        for module in list(sys.modules.values()):
            for key, value in list(getattr(module, "__dict__", {}).items()):
                if value is part and not key.startswith("_") and _has_file(module):
                    return f"{_place_of(module)}:{key}"
    raise ConfigError(
        f"{what} is found again by its name in worker processes and resumed searches, and {part!r} has none; "
        f"define it at the top level of a module"
    )


def _has_file(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is not None


def _place_of(module: ModuleType) -> str:
    """Return a module's name, or its file where the name would mean another module in another process."""
    file = getattr(module, "__file__", None)
    if file is not None and (
        module.__name__ in ("__main__", "__mp_main__") or module.__name__.startswith(_FILE_MODULE)
    ):
        return str(Path(file).resolve())
    return module.__name__


_FILE_MODULE = "tvm_mnas_plugin_"


def _import_file(path: Path) -> ModuleType:
    path = Path(os.path.expanduser(path)).resolve()
    main = sys.modules.get("__main__")
    main_file = getattr(main, "__file__", None)
    if main is not None and main_file is not None and Path(main_file).resolve() == path:
        return main
    name = _FILE_MODULE + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, so that its dataclasses and pickles find it.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        if error.name != name.split(".")[0] or here in sys.path:
            raise
        # A command finds what lies beside the user, as `python -m` does.
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(name)
