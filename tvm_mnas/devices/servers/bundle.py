"""A device server as one archive: TVM's runtime, glibc and rpc/server/server.c compiled for the device.

Nothing is downloaded but TVM's wheels, by pip, and those only for another architecture than this machine's.
The same inputs give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tvm_mnas.errors import BundleError
from tvm_mnas.resources import resource_directory

MAX_BUNDLE_BYTES = 6_000_000
"""What an archive may have: it goes through adb and ssh, and grows only when something slipped in."""

_TVM_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
_FFI_LIBRARY = "libtvm_ffi.so"
# Old glibc kept threads, timers and dlopen apart, and TVM's wheels still name those libraries.
_SYSTEM_LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
)
_LICENSES = ("LICENSE", "NOTICE")
_PIP_TIMEOUT_S = 900
_TOOL_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuArchitecture:
    """What a device's architecture is called by compilers, loaders and Debian."""

    name: str
    prefix: str
    loader: str
    directories: tuple[str, ...]
    packages: str
    documents: tuple[str, ...]


ARCHITECTURES: Mapping[str, CpuArchitecture] = {
    "x86_64": CpuArchitecture(
        name="x86_64",
        prefix="x86_64-linux-gnu-",
        loader="ld-linux-x86-64.so.2",
        directories=("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"),
        packages="gcc libstdc++6",
        documents=("libc6", "libstdc++6", "libgcc-s1"),
    ),
    "aarch64": CpuArchitecture(
        name="aarch64",
        prefix="aarch64-linux-gnu-",
        loader="ld-linux-aarch64.so.1",
        directories=("/usr/aarch64-linux-gnu/lib",),
        packages="gcc-aarch64-linux-gnu libstdc++6-arm64-cross libgcc-s1-arm64-cross",
        documents=("libc6-arm64-cross", "libstdc++6-arm64-cross", "libgcc-s1-arm64-cross"),
    ),
}


def build_bundle(
    architecture: str, output: Path, *, cache: Path | None = None
) -> dict[str, object]:
    """Write the bundle for `architecture`, a key of ARCHITECTURES, to `output`; returns its manifest.

    Wheels are kept in `cache`, by default ~/.cache/tvm-mnas. Raises BundleError where a compiler, a library or a
    wheel is missing, or where the archive would exceed MAX_BUNDLE_BYTES.
    """
    chosen = ARCHITECTURES.get(architecture)
    if chosen is None:
        raise BundleError(
            f"--arch must be one of {', '.join(ARCHITECTURES)}, not {architecture!r}; "
            f"try: tvm-mnas device bundle --arch aarch64 -o bundle.tgz"
        )
    versions = {name: metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi")}
    compiler = find_compiler(chosen)
    files = _system_files(chosen)
    files |= _tvm_files(chosen, versions, cache if cache is not None else default_cache())
    with tempfile.TemporaryDirectory(prefix="tvm-mnas-bundle-") as scratch:
        server = Path(scratch) / "server"
        compile_server(compiler, server)
        files["server"] = server.read_bytes()
        files = {
            name: _stripped(chosen, data, Path(scratch))
            if name == "server" or name.startswith("lib/libtvm")
            else data
            for name, data in files.items()
        }
    files["run"] = _run_script(chosen).encode()
    manifest: dict[str, object] = {
        "architecture": chosen.name,
        "versions": versions,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    files["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    archive = _archive(files, executable={"run", "server", f"lib/{chosen.loader}"})
    if len(archive) > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"a bundle may have {MAX_BUNDLE_BYTES} bytes, and this one has {len(archive)}; "
            f"install a strip for {chosen.name}: apt-get install {chosen.packages}"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(archive)
    except OSError as error:
        raise BundleError(
            f"cannot write {output}: {error.strerror}; name another file with -o"
        ) from error
    return manifest


def kept_bundle(architecture: str, *, cache: Path | None = None) -> Path:
    """Return a bundle for `architecture` in `cache`, built when it is first asked for.

    Raises BundleError as `build_bundle` does.
    """
    kept = cache if cache is not None else default_cache()
    source = (resource_directory("rpc") / "server" / "server.c").read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:12]
    archive = kept / "servers" / f"{architecture}-{metadata.version('apache-tvm')}-{digest}.tgz"
    if not archive.is_file():
        with _fresh_directory(archive.parent) as fresh:
            build_bundle(architecture, fresh / archive.name, cache=kept)
            (fresh / archive.name).replace(archive)
    return archive


def unpacked_bundle(architecture: str, *, cache: Path | None = None) -> Path:
    """Return the directory of `kept_bundle`, unpacked beside it; raises BundleError as it does."""
    archive = kept_bundle(architecture, cache=cache)
    root = archive.with_suffix("")
    if not root.is_dir():
        with _fresh_directory(root.parent) as fresh:
            try:
                with tarfile.open(archive) as opened:
                    # Nothing in it may lead out of the directory, or be more than a file.
                    opened.extractall(fresh, filter="data")
            except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
                raise BundleError(
                    f"{archive} is no bundle of a device server ({error}); delete it, and it is built again"
                ) from error
            # Whole or not there; another process may have been faster.
            with suppress(OSError):
                (fresh / "tvm-server").rename(root)
    return root


@contextmanager
def _fresh_directory(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        fresh = tempfile.mkdtemp(dir=parent)
    except OSError as error:
        raise BundleError(
            f"bundles are kept in {parent}, which cannot be written: {error.strerror}; "
            "set XDG_CACHE_HOME to another directory"
        ) from error
    try:
        yield Path(fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def default_cache() -> Path:
    """Return where downloaded wheels are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "tvm-mnas"


def find_compiler(architecture: CpuArchitecture) -> list[str]:
    """Return the command of a C compiler for `architecture`: gcc's own or ziglang's; BundleError without one."""
    names = [f"{architecture.prefix}gcc"]
    if platform.machine() == architecture.name:
        names = ["cc", "gcc", "clang", *names]
    for name in names:
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None:
        # As old a glibc as TVM's wheels ask for.
        target = f"{architecture.name}-linux-gnu.2.28"
        return [sys.executable, "-m", "ziglang", "cc", "-target", target]
    raise BundleError(
        f"a bundle for {architecture.name} needs a C compiler, and there is no {names[-1]}; "
        f"run: apt-get install {architecture.packages}; or, for the compiler alone: pip install ziglang"
    )


def compile_server(compiler: Sequence[str], output: Path) -> None:
    """Compile rpc/server/server.c to `output` with this command; BundleError where that fails."""
    source = resource_directory("rpc") / "server" / "server.c"
    command = [
        *compiler,
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        f'-DTVM_VERSION="{metadata.version("apache-tvm")}"',
        "-I",
        str(_package("tvm_ffi") / "include"),
        "-Wl,--build-id=none",
        "-o",
        str(output),
        str(source),
        "-ldl",
    ]
    _run(command, "cannot compile the device server", timeout_s=_TOOL_TIMEOUT_S)


def tvm_library_directories() -> tuple[Path, Path]:
    """Return where the installed TVM has its libraries: the runtime's and the ffi's."""
    return _package("tvm") / "lib", _package("tvm_ffi") / "lib"


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # looks, does not import
    if spec is None or spec.origin is None:
        raise BundleError(
            f"a bundle is made of the installed {name}, and there is none; run: make .venv"
        )
    return Path(spec.origin).parent


def _system_files(architecture: CpuArchitecture) -> dict[str, bytes]:
    files = {}
    for name in (architecture.loader, *_SYSTEM_LIBRARIES):
        found = [path for d in architecture.directories if (path := Path(d) / name).is_file()]
        if not found:
            raise BundleError(
                f"a bundle for {architecture.name} needs {name}, which is not in "
                f"{' or '.join(architecture.directories)}; run: apt-get install {architecture.packages}"
            )
        files[f"lib/{name}"] = found[0].read_bytes()
    for package in architecture.documents:
        document = Path("/usr/share/doc") / package / "copyright"
        if document.is_file():
            files[f"licenses/{package}"] = document.read_bytes()
    return files


def _tvm_files(
    architecture: CpuArchitecture, versions: Mapping[str, str], cache: Path
) -> dict[str, bytes]:
    files = {}
    if platform.machine() == architecture.name:
        for package, directory in (("tvm", "apache-tvm"), ("tvm_ffi", "apache-tvm-ffi")):
            root = _package(package)
            names = _TVM_LIBRARIES if package == "tvm" else (_FFI_LIBRARY,)
            for name in names:
                files[f"lib/{name}"] = (root / "lib" / name).read_bytes()
            for file in metadata.files(directory) or ():
                if file.name in _LICENSES and (
                    ".dist-info" in str(file) or str(file) == "tvm/NOTICE"
                ):
                    files[f"licenses/{directory}.{file.name}"] = Path(
                        str(file.locate())
                    ).read_bytes()
        return files
    for project, version in versions.items():
        wheel = _wheel(project, version, architecture, cache)
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    name = member.rpartition("/")[2]
                    if name in (*_TVM_LIBRARIES, _FFI_LIBRARY):
                        files[f"lib/{name}"] = archive.read(member)
                    elif name in _LICENSES and (".dist-info/" in member or member == "tvm/NOTICE"):
                        files[f"licenses/{project}.{name}"] = archive.read(member)
        except (OSError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{wheel} is no readable wheel ({error}); delete it and try again"
            ) from error
    lacking = [name for name in (*_TVM_LIBRARIES, _FFI_LIBRARY) if f"lib/{name}" not in files]
    if lacking:
        raise BundleError(f"TVM's wheels lack {', '.join(lacking)}; versions {dict(versions)}")
    return files


def _wheel(project: str, version: str, architecture: CpuArchitecture, cache: Path) -> Path:
    directory = cache / "wheels"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pattern = f"{project.replace('-', '_')}-{version}-*{architecture.name}.whl"

    def kept() -> list[Path]:
        found = sorted(directory.glob(pattern))
        return [wheel for wheel in found if tag in wheel.name or "-py3-" in wheel.name]

    if not kept():
        # Into a directory of its own first: a wheel in the cache is whole.
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as fresh:
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
            command += ["--no-deps", "--only-binary=:all:", "--dest", fresh]
            command += [
                "--platform",
                f"manylinux_2_28_{architecture.name}",
                f"{project}=={version}",
            ]
            _run(command, f"pip cannot get {project} {version}", timeout_s=_PIP_TIMEOUT_S)
            for wheel in Path(fresh).glob("*.whl"):
                wheel.replace(directory / wheel.name)
    if not kept():
        raise BundleError(f"pip brought no wheel like {pattern} into {directory}")
    return kept()[0]


def _stripped(architecture: CpuArchitecture, data: bytes, scratch: Path) -> bytes:
    names = [f"{architecture.prefix}strip", "llvm-strip"]
    if platform.machine() == architecture.name:
        names.insert(0, "strip")
    tool = next((name for name in names if shutil.which(name)), None)
    if tool is None:
        return data  # the size of the whole is checked
    file = scratch / "to-strip"
    file.write_bytes(data)
    _run([tool, "--strip-unneeded", str(file)], f"{tool} failed", timeout_s=_TOOL_TIMEOUT_S)
    return file.read_bytes()


def _run_script(architecture: CpuArchitecture) -> str:
    # The loader is named because a device has another one, or none at that place.
    return (
        "#!/bin/sh\n"
        "# Starts the device server with the libraries beside it; ./run --help tells the options.\n"
        'here=$(cd "$(dirname "$0")" && pwd) || exit 1\n'
        f'exec "$here/lib/{architecture.loader}" --library-path "$here/lib" "$here/server" "$@"\n'
    )


def _archive(files: Mapping[str, bytes], *, executable: set[str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(f"tvm-server/{name}")  # owner and time stay zero
            info.size = len(files[name])
            info.mode = 0o755 if name in executable else 0o644
            archive.addfile(info, io.BytesIO(files[name]))
    return gzip.compress(raw.getvalue(), compresslevel=9, mtime=0)


def _run(command: Sequence[str], what: str, *, timeout_s: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(f"{what}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise BundleError(f"{what}: {lines[-1].strip() if lines else 'no reason given'}")
