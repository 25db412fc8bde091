"""An interruption stays one, whatever it was made into on its way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mnas.errors import LoweringError, is_interruption, raise_if_interrupted
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
        raise_if_interrupted(error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [_unrelated(), ValueError("3")], ids=["caused", "alone"])
def test_any_other_error_is_none(error: Exception) -> None:
    assert not is_interruption(error)
    raise_if_interrupted(error)


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
    (tmp_path / "program.py").write_text(_PROGRAM.format(how=how))
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == "tvm-mnas: error: interrupted; what was finished is saved\n"
    assert done.returncode == 130
