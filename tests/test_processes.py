"""What a child process keeps out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_mnas.processes import ensure_home

ROOT = Path(__file__).parents[1]

_BLOCKED = """
from tvm_mnas.processes import block_torch
block_torch()
try:
    import torch
except ImportError as error:
    print(error)
# scipy looks torch up among the modules that were imported, and takes a None there for it.
import scipy.stats
import tvm
print(tvm.__name__)
"""


def test_torch_is_blocked_and_what_looks_for_it_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["torch is not for this process", "tvm"]


def test_tvm_is_loaded_without_its_compiler() -> None:
    program = (
        "import sys; from tvm_mnas.processes import load_runtime_only; load_runtime_only(); import tvm; "
        "compiler = tvm.get_global_func('target.build.llvm', allow_missing=True); "
        "print(compiler, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "None False\n", done.stderr


_HOMELESS = """
import os, pathlib, getpass, pwd

def unknown(uid):
    raise KeyError(uid)

pwd.getpwuid = unknown
from tvm_mnas.processes import ensure_home
ensure_home()
home = pathlib.Path.home()
assert home.is_dir() and os.access(home, os.W_OK), home
assert getpass.getuser()
import tvm
print(home)
"""


def test_an_unknown_user_has_a_home_while_the_process_lasts() -> None:
    environment = {name: os.environ[name] for name in ("PATH",)}
    done = subprocess.run(
        [sys.executable, "-c", _HOMELESS],
        env={**environment, "PYTHONPATH": str(ROOT), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_a_home_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("USER", "somebody")
    ensure_home()
    assert os.environ["HOME"] == "/somewhere"
    assert os.environ["USER"] == "somebody"
