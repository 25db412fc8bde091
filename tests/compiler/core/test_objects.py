"""Compiled kernels are kept: a network of known kernels is linked from them, and computes what it did without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, te

from tests.compiler.conftest import SHAPE, Tuned
from tests.compiler.naive import scheduled
from tvm_mnas.compiler.build.artifact import compile_network
from tvm_mnas.compiler.build.extern_calls import call_by_symbol
from tvm_mnas.compiler.build.packing import fold_packing
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.linking import Linker
from tvm_mnas.compiler.core.objects import ObjectCache
from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import BuildError

ONE = te.placeholder((8,), name="one")
IMAGES = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)


def _outputs(executable: object) -> np.ndarray:
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(IMAGES)).numpy())


def _run(path: Path) -> np.ndarray:
    return _outputs(tvm.runtime.load_module(str(path)))


def _files(objects: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in objects.iterdir()}


@pytest.fixture(scope="module")
def naive(
    lowered: LoweredNetwork, tuned: Tuned, tmp_path_factory: pytest.TempPathFactory
) -> np.ndarray:
    """The outputs of the network compiled by TVM in one piece."""
    target = load_target(lowered.target)
    module = scheduled(lowered, tuned.store)
    with target, tvm.transform.PassContext(opt_level=3):
        module = relax.transform.SplitLayoutRewritePreproc()(module)
        module = fold_packing(module, tmp_path_factory.mktemp("packers"))
        return _outputs(tvm.compile(module, target=target))


@pytest.fixture(scope="module")
def objects(
    lowered: LoweredNetwork, tuned: Tuned, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The kept kernels after one compilation."""
    directory = tmp_path_factory.mktemp("kept") / "objects"
    compile_network(lowered, tuned.store, directory.parent / "net.so", objects=directory)
    return directory


def test_a_network_of_kept_kernels_computes_what_one_piece_computes(
    lowered: LoweredNetwork, tuned: Tuned, objects: Path, naive: np.ndarray, tmp_path: Path
) -> None:
    before = _files(objects)
    assert before
    artifact = compile_network(lowered, tuned.store, tmp_path / "net.so", objects=objects)
    assert _files(objects) == before, "a known kernel was compiled again"
    np.testing.assert_array_equal(_run(artifact.path), naive)
    apart = compile_network(lowered, tuned.store, tmp_path / "apart.so")
    np.testing.assert_array_equal(_run(apart.path), naive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apart.so", "net.so"]


@pytest.mark.parametrize("suffix", [".o", ".so"])
@pytest.mark.parametrize("left", [0, 200])
def test_damaged_files_are_made_again(
    suffix: str,
    left: int,
    lowered: LoweredNetwork,
    tuned: Tuned,
    objects: Path,
    naive: np.ndarray,
    tmp_path: Path,
) -> None:
    for path in objects.glob(f"*{suffix}"):
        content = path.read_bytes()[:left]
        # Not in place: this process has the libraries loaded.
        path.unlink()
        path.write_bytes(content)
    artifact = compile_network(lowered, tuned.store, tmp_path / "net.so", objects=objects)
    np.testing.assert_array_equal(_run(artifact.path), naive)
    assert all(path.stat().st_size > left for path in objects.glob(f"*{suffix}"))


def test_a_better_record_is_other_code(
    lowered: LoweredNetwork, tuned: Tuned, objects: Path, tmp_path: Path
) -> None:
    for kernel in lowered.kernels:
        best = tuned.store.best_record(kernel.key)
        others = [record for record in tuned.store.records_of(kernel.key) if record != best]
        if kernel.name.startswith("conv2d") and others:
            break
    else:
        pytest.fail("no kernel has a second schedule")
    store = RecordStore.open(tmp_path / "records", target=lowered.target)
    tuned.store.subset(lowered.kernels, store.directory)
    store = RecordStore.open(store.directory, target=lowered.target)
    faster = json.loads(others[0])
    faster[1] = [1e-9]
    store.add(kernel, [json.dumps(faster)], budget=3, failures={}, duration_s=0.0)
    before = set(_files(objects))
    compile_network(lowered, store, tmp_path / "net.so", objects=objects)
    added = set(_files(objects)) - before
    assert sum(name.endswith(".o") for name in added) == 1


def test_a_kernel_that_does_not_link_leaves_no_file(
    tmp_path: Path, script_linker: Callable[[str], Linker]
) -> None:
    cache = ObjectCache(tmp_path / "objects", "llvm")
    unbound = te.create_prim_func([ONE, te.compute((8,), lambda i: ONE[i] + 1.0)])
    with pytest.raises(BuildError, match="disk is full"):
        cache.library(unbound, script_linker("echo disk is full >&2; exit 1"))
    assert list((tmp_path / "objects").iterdir()) == []


def test_the_linkers_failure_is_told_when_the_objects_are_good(
    lowered: LoweredNetwork,
    tuned: Tuned,
    objects: Path,
    tmp_path: Path,
    script_linker: Callable[[str], Linker],
) -> None:
    with pytest.raises(BuildError, match="no room"):
        compile_network(
            lowered,
            tuned.store,
            tmp_path / "net.so",
            linker=script_linker("echo no room >&2; exit 1"),
            objects=objects,
        )
    assert list(tmp_path.glob("net*")) == []


def test_no_kernel_stays_in_the_networks_own_code(lowered: LoweredNetwork) -> None:
    names = [
        variable.name_hint
        for variable, function in lowered.module.functions_items()
        if not isinstance(function, relax.Function)
    ]
    called = call_by_symbol(lowered.module, {name: f"symbol_of_{name}" for name in names})
    text = called.script()
    for name in names:
        assert f'"symbol_of_{name}"' in text
    left = [variable.name_hint for variable, _ in called.functions_items()]
    assert sorted(left) == ["main", "tvm_mnas_anchor"]


_MAKE = """
import sys
from pathlib import Path
import tvm
from tvm import te
from tvm_mnas.compiler.core.objects import ObjectCache
one = te.placeholder((64,), name="one")
functions = [
    te.create_prim_func([one, te.compute((64,), lambda i: one[i] + float(number))])
    for number in range(20)
]
cache = ObjectCache(Path(sys.argv[1]), '{"kind": "llvm", "num-cores": 1}')
print("ready", flush=True)
sys.stdin.readline()
for function in functions:
    path = cache.path(cache.kernel(function))
    assert path.read_bytes()[:4] == b"\\x7fELF"
    print(path.name)
"""


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", _MAKE, tmp_path / "objects"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    printed = [maker.communicate(timeout=60)[0].split() for maker in makers]
    assert printed[0] == printed[1]
    assert len(set(printed[0])) == 20
    assert {path.name for path in (tmp_path / "objects").iterdir()} == set(printed[0])
