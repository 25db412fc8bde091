"""What a kernel takes, and a whole network, as TVM builds them by itself, without a schedule of a record."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import BuildError, DeviceError

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.farm.farm import Farm

DEADLINE_S = 120.0
LEASE_DEADLINE_S = 60.0


def measure_untuned(
    kernel: Kernel, directory: Path, *, profile: DeviceProfile, farm: Farm
) -> float | None:
    """Return what `kernel` takes on the device as TVM builds it by itself, in microseconds.

    None if it does not build or does not run there within two minutes: nothing to compare with. It is timed as
    kernels are while they are tuned, so that the time compares with those of records.

    Raises:
        DeviceError: if no device can be leased.
    """
    from tvm_mnas.compiler.build.probes import build_untuned
    from tvm_mnas.compiler.core.linking import find_linker
    from tvm_mnas.devices.farm.runner import NO_DEVICE, measure_kernel

    target = profile.target
    path = directory / f"untuned-{kernel.key}.so"
    try:
        arguments = build_untuned(kernel, target, path, linker=find_linker(target))
    except BuildError:
        return None
    seconds = measure_kernel(
        farm,
        path,
        arguments,
        timing=profile.kernel_timing,
        deadline_s=DEADLINE_S,
        lease_deadline_s=LEASE_DEADLINE_S,
        cold=True,
    )
    if isinstance(seconds, str) and seconds.startswith(f"{NO_DEVICE}:"):
        # Says nothing of the kernel: it may run once the device is back.
        raise DeviceError(seconds)
    return None if isinstance(seconds, str) else statistics.median(seconds) * 1e6


def compile_untuned(lowered: LoweredNetwork, path: Path, *, objects: Path) -> CompiledArtifact:
    """Compile `lowered` into the shared library `path` without a record: what a network takes that nobody tuned.

    `objects` keeps compiled kernels from one network to the next. Its coverage says that none of it is tuned.

    Raises:
        BuildError: if TVM or the linker fails.
    """
    from tvm_mnas.compiler.build.artifact import compile_network
    from tvm_mnas.compiler.records.layered import open_records

    with tempfile.TemporaryDirectory(prefix="tvm-mnas-no-records-") as empty:
        store = open_records(
            Path(empty), profile_key="untuned", target=lowered.target, shipped=None
        )
        return compile_network(
            lowered,
            store,
            path,
            objects=objects,
            untuned_us={kernel.key: 1.0 for kernel in lowered.kernels},
            max_untuned_share=1.0,
        )
