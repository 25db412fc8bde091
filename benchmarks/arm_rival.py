"""ONNX Runtime's own aarch64 wheel in the emulator: its instructions for an inference, beside ours.

Python for aarch64 and its libraries come from Debian's archive, as packages that are unpacked and not installed; the
wheels of onnxruntime and numpy from the package index. All is kept in the cache of tvm-mnas. Run by
`arm_instructions.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from networks import settled_network

if TYPE_CHECKING:
    from tvm_mnas.devices.farm.instructions import InstructionCounts

PACKAGES = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libssl3",
)
RUNS = 3
_TIMEOUT_S = 900
_WITHOUT_SYS = ("unshare", "-r", "-m", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh")
"""ONNX Runtime looks there for cores, and crashes where they are not ARM's."""

# Runs in the emulator. What it says of the first runs is not counted: memory is taken and code is found there.
PROGRAM = """
import ctypes, json, sys
import numpy, onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = numpy.load(sys.argv[2])
counts = []
for _ in range(int(sys.argv[4])):
    before, after = (ctypes.c_uint64 * 8)(), (ctypes.c_uint64 * 8)()
    ctypes.CDLL(None).syscall(0x4D4E41, before)
    (output,) = session.run(None, {"images": image})
    ctypes.CDLL(None).syscall(0x4D4E41, after)
    counts.append([b - a for a, b in zip(before, after)])
numpy.save(sys.argv[3], output)
print(json.dumps({"version": onnxruntime.__version__, "counts": counts}))
"""


def count_rival(name: str, directory: Path) -> tuple[str, InstructionCounts]:
    """Return ONNX Runtime's version and its instructions for one inference of the network `name`.

    Raises:
        RuntimeError: if what it needs is not there, or its output is not torch's.
    """
    import numpy as np

    from tvm_mnas.devices.farm.instructions import CLASSES, InstructionCounts
    from tvm_mnas.devices.servers.bundle import default_cache
    from tvm_mnas.devices.servers.emulator import find_emulator
    from tvm_mnas.models.inference import export_onnx, predict

    root = _root(default_cache() / "aarch64-root")
    network = settled_network(name)
    shape = network.architecture.image_shape
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    np.save(directory / "image.npy", image)
    export_onnx(network, shape, directory / "net.onnx")
    (directory / "count.py").write_text(PROGRAM)
    libraries = [root / "lib/aarch64-linux-gnu", root / "usr/lib/aarch64-linux-gnu"]
    program = [
        *(str(libraries[0] / "ld-linux-aarch64.so.1"), "--library-path"),
        *(":".join(map(str, libraries)), str(root / "usr/bin/python3.11")),
        *(str(directory / "count.py"), str(directory / "net.onnx"), str(directory / "image.npy")),
        *(str(directory / "output.npy"), str(RUNS)),
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(root / "wheels"),
        "OMP_NUM_THREADS": "1",
        "HOME": str(directory),
    }
    emulator = find_emulator("aarch64")
    if emulator.plugin is None:
        raise RuntimeError("the emulator counts no instructions")
    printed = _run([*_WITHOUT_SYS, *emulator.command(program)], environment)
    found = np.load(directory / "output.npy")
    expected = predict(network, image)
    if np.abs(found - expected).max() > 1e-3 * np.abs(expected).max():
        raise RuntimeError("its output is not torch's")
    values = json.loads(printed.splitlines()[-1])
    _, *classes = values["counts"][-1][: len(CLASSES)]
    # Its process has other threads, and the plugin does not lock: two that count at once lose a few of either count.
    return values["version"], InstructionCounts.of([sum(classes), *classes])


def _root(root: Path) -> Path:
    """Return the directory with Python for aarch64 and the wheels, made when it is first asked for."""
    if (root / "done").is_file():
        return root
    for name in ("lists/partial", "archives/partial", "packages", "wheels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    # Lists and archives of its own: this machine's packages stay as they are.
    apt = ["apt-get", "-qq", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]
    apt += ["-o", f"Dir::State::Lists={root / 'lists'}", "-o", f"Dir::Cache={root / 'archives'}"]
    _run([*apt, "update"])
    _run([*apt, "download", *PACKAGES], directory=root / "packages")
    for package in sorted((root / "packages").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(root)])
    download = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    download += ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64"]
    download += ["--platform", "manylinux_2_27_aarch64", "--platform", "manylinux_2_17_aarch64"]
    download += ["--python-version", "3.11", "--target", str(root / "wheels")]
    version = metadata.version("onnxruntime")
    _run([*download, f"onnxruntime=={version}", f"numpy=={metadata.version('numpy')}"])
    (root / "done").touch()
    return root


def _run(
    command: list[str], environment: dict[str, str] | None = None, directory: Path | None = None
) -> str:
    try:
        done = subprocess.run(
            command,
            env=dict(os.environ) if environment is None else environment,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {lines[-1]}")
    return done.stdout
