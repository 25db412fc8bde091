"""How MetaSchedule is loaded: in a program of somebody else, TVM stays as it is."""

from __future__ import annotations

import subprocess
import sys

_NAME = "tvm.s_tir.tensor_intrin"


def test_loading_it_leaves_the_intrinsics_of_this_process_alone() -> None:
    code = (
        "import sys; from tvm_mnas.compiler.core.metaschedule import load_meta_schedule;"
        f"load_meta_schedule(); assert {_NAME!r} not in sys.modules;"
        # What another part of the program asks for is there, one by one as TVM has it.
        f"import importlib.util; assert importlib.util.find_spec({_NAME!r}).origin.endswith('__init__.py')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_worker_has_those_of_cpus_alone() -> None:
    code = (
        "import sys; from tvm_mnas.compiler.core import metaschedule as m;"
        "m.keep_to_cpu_intrinsics(); m.load_meta_schedule(); import tvm.s_tir.tensor_intrin;"
        f"loaded = {{n.rpartition('.')[2] for n in sys.modules if n.startswith({_NAME + '.'!r})}};"
        "assert {'x86', 'arm_cpu'} <= loaded and not {'cuda', 'rocm', 'hexagon'} & loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
