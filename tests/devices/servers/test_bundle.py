"""The bundled device server: the same bytes twice, small, complete, and it runs, for ARM under emulation too."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import rpc
from tvm.script import ir as I
from tvm.script import tirx as T

from tvm_mnas.devices.servers.bundle import (
    ARCHITECTURES,
    MAX_BUNDLE_BYTES,
    build_bundle,
    compile_server,
    find_compiler,
    unpacked_bundle,
)
from tvm_mnas.devices.servers.local_main import FACTS_FUNCTION, free_port
from tvm_mnas.errors import BundleError

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[3]
MACHINE = os.uname().machine
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
CROSS_GCC = shutil.which("aarch64-linux-gnu-gcc")

pytestmark = pytest.mark.skipif(
    MACHINE not in ARCHITECTURES, reason="no bundle for this machine's architecture"
)


@I.ir_module
class Sum:
    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")):
        T.func_attr({"tir.noalias": True})
        for i in range(64):
            with T.sblock("sum"):
                j = T.axis.spatial(64, i)
                b[j] = a[j] + a[j] * T.float32(0.5)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "server.tgz"
    build_bundle(MACHINE, path)
    return path


def unpacked(archive: Path, directory: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    return directory / "tvm-server"


@contextmanager
def session(command: list[str], work: Path) -> Iterator[rpc.RPCSession]:
    """Start a server without a tracker, yield a session with it, and end both."""
    port = free_port(HOST)
    options = ["--key", "board", "--port", str(port), "--work-directory", str(work)]
    server = subprocess.Popen([*command, *options], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while True:
            assert server.poll() is None, server.stderr and server.stderr.read()
            assert time.monotonic() < end
            with suppress(Exception):
                yield_this = rpc.connect(HOST, port, "board", session_timeout=60)
                break
            time.sleep(0.05)
        yield yield_this
    finally:
        server.kill()
        server.communicate(timeout=10)


def sums(remote: rpc.RPCSession, library: Path) -> None:
    """Fail unless the uploaded kernel computes what numpy does."""
    remote.upload(str(library))
    kernel = remote.load_module(library.name)
    values = np.random.default_rng(5).standard_normal(64).astype("float32")
    a = tvm.runtime.tensor(values, remote.cpu())
    b = tvm.runtime.empty((64,), "float32", remote.cpu())
    kernel["main"](a, b)
    np.testing.assert_allclose(b.numpy(), values * 1.5, rtol=1e-6)
    times = kernel.time_evaluator("main", remote.cpu(), number=2, repeat=2)(a, b).results
    assert len(times) == 2 and min(times) > 0


def test_two_builds_are_byte_identical(archive: Path, tmp_path: Path) -> None:
    build_bundle(MACHINE, tmp_path / "again.tgz")
    assert (tmp_path / "again.tgz").read_bytes() == archive.read_bytes()


def test_it_is_small_and_its_manifest_tells_every_file(archive: Path, tmp_path: Path) -> None:
    assert archive.stat().st_size <= MAX_BUNDLE_BYTES
    root = unpacked(archive, tmp_path)
    manifest = json.loads((root / "manifest.json").read_text())
    found = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert found == manifest["sha256"]
    assert manifest["versions"]["apache-tvm"] == tvm.__version__
    assert {"run", "server", "lib/libtvm_runtime.so", "licenses/apache-tvm.LICENSE"} <= set(found)
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}


def _links_out(archive: tarfile.TarFile) -> None:
    link = tarfile.TarInfo("tvm-server/out")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../.."
    archive.addfile(link)


def _climbs_out(archive: tarfile.TarFile) -> None:
    archive.addfile(tarfile.TarInfo("tvm-server/../../../evil"))


def _is_a_device(archive: tarfile.TarFile) -> None:
    device = tarfile.TarInfo("tvm-server/null")
    device.type = tarfile.CHRTYPE
    archive.addfile(device)


@pytest.mark.parametrize("harm", [_links_out, _climbs_out, _is_a_device, None])
def test_an_archive_that_leads_out_of_its_directory_or_is_torn_is_refused(
    harm: Callable[[tarfile.TarFile], None] | None, archive: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "deep" / "cache"
    kept = cache / "servers" / kept_bundle_name()
    kept.parent.mkdir(parents=True)
    if harm is None:
        kept.write_bytes(archive.read_bytes()[:-4000])
    else:
        with tarfile.open(kept, "w:gz") as opened:
            harm(opened)
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    with pytest.raises(BundleError, match="is no bundle of a device server.*delete it") as caught:
        unpacked_bundle(MACHINE, cache=cache)
    assert str(kept) in str(caught.value)
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} == before
    assert list(kept.parent.iterdir()) == [kept]
    kept.unlink()
    assert (unpacked_bundle(MACHINE, cache=cache) / "run").is_file()


def kept_bundle_name() -> str:
    """What the bundle of this version is called in a cache."""
    source = (ROOT / "rpc" / "server" / "server.c").read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:12]
    return f"{MACHINE}-{metadata.version('apache-tvm')}-{digest}.tgz"


def test_it_runs_from_anywhere_with_its_own_libraries(archive: Path, tmp_path: Path) -> None:
    root = unpacked(archive, tmp_path)
    library = tmp_path / "sum.so"
    tvm.compile(Sum, target="llvm").export_library(str(library))
    with session([str(root / "run")], tmp_path) as remote:
        sums(remote, library)
        assert json.loads(remote.get_function(FACTS_FUNCTION)())["tvm"] == tvm.__version__
        (child,) = [
            Path(f"/proc/{pid}/maps").read_text()
            for pid in os.listdir("/proc")
            if pid.isdigit()
            and os.path.exists(f"/proc/{pid}/cwd")
            and os.path.realpath(f"/proc/{pid}/cwd").startswith(f"{tmp_path}/tvm-session-")
        ]
        assert f"{root}/lib/libc.so.6" in child
        assert "/lib/x86_64-linux-gnu/" not in child


@pytest.mark.skipif(CROSS_GCC is None, reason="needs apt-get install gcc-aarch64-linux-gnu")
@pytest.mark.skipif(QEMU is None, reason="needs apt-get install qemu-user")
def test_the_arm_bundle_runs_under_emulation(tmp_path: Path) -> None:
    """On the first run pip fetches TVM's ARM wheels, 98 MB."""
    assert QEMU is not None
    for name in ("a.tgz", "b.tgz"):
        build_bundle("aarch64", tmp_path / name)
    assert (tmp_path / "a.tgz").read_bytes() == (tmp_path / "b.tgz").read_bytes()
    root = unpacked(tmp_path / "a.tgz", tmp_path)
    library = tmp_path / "sum.so"
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}
    tvm.compile(Sum, target=target).export_library(str(library), cc=CROSS_GCC)
    loader = [QEMU, str(root / "lib/ld-linux-aarch64.so.1"), "--library-path", str(root / "lib")]
    with session([*loader, str(root / "server")], tmp_path) as remote:
        assert json.loads(remote.get_function(FACTS_FUNCTION)())["machine"] == "aarch64"
        sums(remote, library)


def test_what_is_missing_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match="--arch must be one of x86_64, aarch64, not 'mips'"):
        build_bundle("mips", tmp_path / "x.tgz")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        "tvm_mnas.devices.servers.bundle.importlib.util.find_spec", lambda name: None
    )
    with pytest.raises(BundleError, match="apt-get install"):
        build_bundle("aarch64", tmp_path / "x.tgz")


@pytest.mark.skipif(find_spec("ziglang") is None, reason="needs pip install ziglang (411 MB)")
def test_zig_compiles_the_server_where_there_is_no_gcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = find_compiler(ARCHITECTURES["aarch64"])
    assert "ziglang" in compiler
    for name in ("a", "b"):
        compile_server(compiler, tmp_path / name)
    server = (tmp_path / "a").read_bytes()
    assert server == (tmp_path / "b").read_bytes()
    assert server[18:20] == struct.pack("<H", 183)  # e_machine: AArch64


def test_without_gcc_the_compiler_is_zigs_and_without_both_the_answer_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, object] = {"ziglang": object()}
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tvm_mnas.devices.servers.bundle.importlib.util.find_spec", there.get)
    command = find_compiler(ARCHITECTURES["aarch64"])
    assert command[1:] == ["-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28"]
    there.clear()
    with pytest.raises(BundleError, match=r"apt-get install gcc-aarch64.*pip install ziglang"):
        find_compiler(ARCHITECTURES["aarch64"])


def test_the_command_answers_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tvm_mnas", "device", "bundle", "--arch", "mips", "-o", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "--arch must be one of" in done.stderr
    assert "Traceback" not in done.stderr
