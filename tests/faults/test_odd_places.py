"""A search where few people test one: odd paths, no home, no locale, an unknown user, places that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_full_disk import ROOT, SETTINGS, TRIALS
from tvm_mnas.search.run import RunDirectory

NOBODY = 54321
ODD = "räume 测试 'x' $y"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def search(
    *arguments: str,
    directory: Path,
    environment: dict[str, str] | None = None,
    user: int | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tvm_mnas", "search", *arguments],
        cwd=directory,
        env={**(environment if environment is not None else os.environ), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        user=user,
    )


def finished(run: Path) -> list[int]:
    return [record.number for record in RunDirectory.open(run).finished_trials()]


def test_paths_with_blanks_quotes_and_other_scripts_in_the_c_locale(tmp_path: Path) -> None:
    place = tmp_path / ODD
    place.mkdir()
    options = ("--run", f"{ODD} run", "--records", f"{ODD} records")
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(place)}
    done = search(*SETTINGS, *options, directory=place, environment=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    run = place / f"{ODD} run"
    assert finished(run) == list(range(TRIALS))
    moved = tmp_path / "moved here"
    shutil.move(run, moved)
    again = search("--resume", str(moved), "--trials", "4", directory=Path("/"), environment=plain)
    assert again.returncode == 0, again.stderr[-2000:]
    assert finished(moved) == list(range(4))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_a_name_or_a_home() -> None:
    # pytest's own directories are its user's alone.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        os.chown(place, NOBODY, NOBODY)
        look_for_a_search_of_nobody(place)


def look_for_a_search_of_nobody(place: Path) -> None:
    plain = {"PATH": os.environ["PATH"]}
    try:
        subprocess.run(
            [sys.executable, "-c", "import tvm_mnas.cli"],
            cwd=place,
            env={**plain, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            user=NOBODY,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"another user cannot use this Python: {error}")
    done = search(
        *SETTINGS,
        *("--run", "run", "--records", "records"),
        directory=place,
        environment=plain,
        user=NOBODY,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert finished(place / "run") == list(range(TRIALS))


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A directory in which nothing can be written, by nobody."""
    place = tmp_path / "sealed"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a read-only place: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize("what", ["run", "records"])
def test_a_place_that_cannot_be_written_is_told_in_a_line(
    what: str, sealed: Path, tmp_path: Path
) -> None:
    places = {"run": tmp_path / "run", "records": tmp_path / "records", what: sealed / what}
    options = [f"--{name}={place}" for name, place in places.items()]
    done = search(*SETTINGS, *options, directory=tmp_path)
    assert done.returncode in (1, 2)
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("tvm-mnas: error:")
    assert "Read-only file system" in lines[-1]
    assert str(sealed) in lines[-1]
    assert "Traceback" not in done.stderr
    assert "failed in" not in done.stderr, "a candidate was blamed"
