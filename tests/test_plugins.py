"""The doors for parts of one's own: every way to name one, and what is said of a name that is none."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tvm_mnas import plugins
from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import (
    ALGORITHMS,
    DATA_SOURCES,
    EXECUTORS,
    SPACES,
    TRAINERS,
    Registry,
    load_object,
    reference_of,
)

REGISTRIES = (TRAINERS, DATA_SOURCES, SPACES, ALGORITHMS, EXECUTORS)


def own_part() -> str:
    """A part at the top level of a module."""
    return "mine"


OWN_OBJECT = object()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a module and a file that have parts."""
    (tmp_path / "own_module_of_parts.py").write_text("def part():\n    return 'module'\n")
    (tmp_path / "own file.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Part:\n    size: int = 3\n\n\n"
        "def part():\n    return 'file'\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_what_ships_comes_through_the_same_door(registry: Registry) -> None:
    for name, reference in registry.shipped.items():
        registry.check(name)
        assert registry.load(name) is load_object(reference)
        assert registry.load(reference) is registry.load(name)


def test_a_part_in_a_module_of_the_working_directory_is_found(place: Path) -> None:
    assert TRAINERS.load("own_module_of_parts:part")() == "module"


def test_a_text_may_follow_some_names() -> None:
    EXECUTORS.check("ray:10.0.0.7:6379,gpus=0.5")
    assert EXECUTORS.load("ray:10.0.0.7:6379,gpus=0.5").keywords == {
        "text": "10.0.0.7:6379,gpus=0.5"
    }
    with pytest.raises(ConfigError, match="unknown executor 'inline:'"):
        EXECUTORS.check("inline:")


def test_a_part_in_a_file_is_found_and_is_the_same_each_time(place: Path) -> None:
    for text in ("own file.py:part", f"{place}/own file.py:part"):
        assert TRAINERS.load(text)() == "file"
    part = TRAINERS.load("own file.py:Part")
    assert part is TRAINERS.load(f"{place}/own file.py:Part")
    assert part().size == 3


def test_a_part_is_found_by_the_name_of_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "os.path:join", "tvm_mnas.trainers")
    monkeypatch.setattr(
        plugins, "installed", lambda group: (entry,) if group == entry.group else ()
    )
    import os.path

    assert TRAINERS.load("mine") is os.path.join
    assert TRAINERS.names == ("proxy", "mine")
    with pytest.raises(ConfigError, match="unknown executor 'mine'"):
        EXECUTORS.load("mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prox", "unknown trainer 'prox': it is one of proxy, or package.module:object"),
        ("no_such_module:part", "cannot import 'no_such_module'"),
        ("own_module_of_parts:absent", "'own_module_of_parts' has no 'absent'"),
        ("absent.py:part", "cannot import 'absent.py' for 'absent.py:part': FileNotFoundError"),
        ("broken.py:part", "ZeroDivisionError: division by zero"),
        ("module:", "unknown trainer 'module:'"),
        (":part", "unknown trainer ':part'"),
        ("a:1b", "unknown trainer 'a:1b'"),
    ],
)
def test_a_name_that_is_none_is_one_line(text: str, message: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        TRAINERS.load(text)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_tried_again_once_it_is_mended(place: Path) -> None:
    with pytest.raises(ConfigError):
        TRAINERS.load("broken.py:part")
    (place / "broken.py").write_text("part = 7\n")
    assert TRAINERS.load("broken.py:part") == 7


@pytest.mark.parametrize("part", [own_part, Registry, OWN_OBJECT, TRAINERS])
def test_a_reference_finds_its_part_again(part: object) -> None:
    assert load_object(reference_of(part, what="a part")) is part


def test_a_part_of_a_file_is_referred_to_by_the_file(place: Path) -> None:
    part = load_object("own file.py:part")
    assert reference_of(part, what="a part") == f"{place}/own file.py:part"


@pytest.mark.parametrize("part", [lambda: None, object(), 7.25])
def test_a_part_without_a_name_is_refused(part: object) -> None:
    with pytest.raises(ConfigError, match="define it at the top level of a module"):
        reference_of(part, what="a trainer")
