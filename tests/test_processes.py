"""What a child process keeps out."""

from __future__ import annotations

import subprocess
import sys

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
