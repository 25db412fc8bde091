"""An interruption stays one, whatever it was made into on its way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mnas.errors import (
    HostError,
    LoweringError,
    host_fault,
    is_interruption,
    raise_if_foreign,
)
from tvm_mnas.plugins import load_object

ROOT = Path(__file__).parents[1]


def _translated() -> Exception:
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interruption:
            raise RuntimeError("Error calling __set_name__") from interruption
    except RuntimeError as error:
        return error


def _raised_meanwhile() -> Exception:
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError("the file is closed")
    except OSError as error:
        return error


def _unrelated() -> Exception:
    try:
        try:
            raise KeyError("name")
        except KeyError as error:
            raise LoweringError("no such operator") from error
    except LoweringError as error:
        return error


@pytest.mark.parametrize("error", [_translated(), _raised_meanwhile()], ids=["cause", "context"])
def test_what_an_interruption_became_is_one_again(error: Exception) -> None:
    assert is_interruption(error)
    with pytest.raises(KeyboardInterrupt) as raised:
        raise_if_foreign(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [_unrelated(), ValueError("3")], ids=["caused", "alone"])
def test_any_other_error_is_none(error: Exception) -> None:
    assert not is_interruption(error)
    raise_if_foreign(error)


_INTERRUPTED_IMPORT = """
class Property:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class Owner:
    name = Property()
"""


def test_an_import_that_is_interrupted_is_not_told_as_a_bad_plugin(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(_INTERRUPTED_IMPORT)
    with pytest.raises(KeyboardInterrupt):
        load_object(f"{path}:Owner")


_PROGRAM = """
import os, signal, sys
from tvm_mnas import cli

@cli.app.command()
def interrupted():
    {how}

sys.argv[1:] = ["interrupted"]
cli.main()
"""


def _run(how: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that does `how`, as `python -m`."""
    (directory / "program.py").write_text(_PROGRAM.format(how=how))
    return subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), signal.SIGINT)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        # After Python's own KeyboardInterrupt from here, `python -m` ends by the signal whatever we say.
        "exec('os.kill(os.getpid(), signal.SIGINT)')",
        'exec(\'class A:\\n x = type("B", (), {"__set_name__": lambda *a: os.kill(os.getpid(), signal.SIGINT)})()\')',
    ],
    ids=["SIGINT", "SIGTERM", "exec", "set_name"],
)
def test_a_command_that_is_interrupted_ends_with_130_and_one_line(how: str, tmp_path: Path) -> None:
    done = _run(how, tmp_path)
    assert done.stderr == "tvm-mnas: error: interrupted; what was finished is saved\n"
    assert done.returncode == 130


def _wrapped(error: Exception) -> Exception:
    try:
        raise ValueError("it did not work") from error
    except ValueError as wrapped:
        return wrapped


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "nothing said"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        _wrapped(OSError(errno.EDQUOT, "over")),
    ],
    ids=["errno", "read-only", "by text", "cause"],
)
def test_what_this_machine_lacks_is_not_the_work_s_fault(error: Exception) -> None:
    assert host_fault(error) in {
        os.strerror(number) for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
    }
    with pytest.raises(HostError, match="this machine cannot go on: .*df -h"):
        raise_if_foreign(error)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "gone"), ValueError("3"), _unrelated()], ids=str
)
def test_any_other_error_is_no_host_s(error: Exception) -> None:
    assert host_fault(error) is None
    raise_if_foreign(error)


def test_a_command_that_meets_a_full_disk_is_one_line(tmp_path: Path) -> None:
    how = "raise OSError(28, os.strerror(28), 'study.journal')"
    done = _run(how, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "tvm-mnas: error: this machine cannot go on: No space left on device"
    )
    assert done.stderr.count("\n") == 1
