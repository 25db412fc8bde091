"""A file that is written atomically is there whole, or as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvm_mnas.errors import HostError
from tvm_mnas.files import atomic_write, atomic_write_text, require_room


def test_the_file_changes_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with atomic_write(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as part:
            part.write_bytes(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "weights"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_permissions_of_the_file_replaced_stay(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("old")
    path.chmod(0o640)
    atomic_write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_text(encoding="utf-8") == "new"


def test_what_the_file_holds_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    atomic_write_text(tmp_path / "config.toml", "seed = 1\n")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_directory_that_takes_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write_text(tmp_path / "absent" / "config.toml", "")


def test_room_is_required_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_room(tmp_path, least_bytes=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    with pytest.raises(HostError, match=rf"No space left on device, 3\.0 MiB at {tmp_path}"):
        require_room(tmp_path)
    require_room(tmp_path, least_bytes=3 << 20)
