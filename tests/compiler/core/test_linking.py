"""A bare linker suffices, for this machine and for others; without one the error names what to install."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tvm_mnas.compiler.core.linking import Linker, find_linker
from tvm_mnas.errors import BuildError, HostError

ARM = json.dumps({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 1})


@pytest.fixture
def object_file(tmp_path: Path) -> Path:
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    path = tmp_path / "answer.o"
    subprocess.run(["gcc", "-c", "-fPIC", "-o", path, source], check=True, timeout=60)
    return path


def _only(monkeypatch: pytest.MonkeyPatch, *names: str, ziglang: bool = False) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/x/{name}" if name in names else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if ziglang else None)


def test_what_it_links_can_be_loaded(object_file: Path, target: str, tmp_path: Path) -> None:
    library = tmp_path / "answer.so"
    find_linker(target).link([object_file], library)
    assert ctypes.CDLL(str(library)).answer() == 42


def test_a_linker_that_fails_is_an_error_with_its_words(
    object_file: Path, tmp_path: Path, script_linker: Callable[[str], Linker]
) -> None:
    linker = script_linker("echo disk is full >&2; exit 3")
    with pytest.raises(BuildError, match="disk is full"):
        linker.link([object_file], tmp_path / "answer.so")


def test_a_linker_without_room_is_this_machine_s_fault(
    object_file: Path, tmp_path: Path, script_linker: Callable[[str], Linker]
) -> None:
    linker = script_linker("echo ld: final link failed: No space left on device >&2; exit 1")
    with pytest.raises(HostError, match="No space left on device"):
        linker.link([object_file], tmp_path / "answer.so")


def test_a_linker_that_is_not_there_is_an_error(object_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="/nowhere/ld"):
        Linker(("/nowhere/ld",)).link([object_file], tmp_path / "answer.so")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("ld", "aarch64-linux-gnu-ld", "ld.lld"), "/x/aarch64-linux-gnu-ld"),
        (("ld", "ld.lld"), "/x/ld.lld"),
    ],
)
@pytest.mark.skipif(platform.machine() == "aarch64", reason="there, arm is not a foreign machine")
def test_another_machine_is_not_linked_for_with_this_one_s_linker(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], expected: str
) -> None:
    _only(monkeypatch, *there)
    assert find_linker(ARM).command == (expected,)


def test_this_machine_is_linked_for_with_its_own(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    _only(monkeypatch, "ld", "ld.lld")
    assert find_linker(target).command == ("/x/ld",)


def test_ziglang_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, ziglang=True)
    assert find_linker(ARM).command[1:] == ("-m", "ziglang", "ld.lld")


def test_without_any_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch)
    with pytest.raises(BuildError) as caught:
        find_linker(ARM)
    assert "aarch64" in str(caught.value)
    assert "apt-get install" in str(caught.value)
    assert "pip install ziglang" in str(caught.value)
