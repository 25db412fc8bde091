"""The unit of tuning and what is made of them: a kernel, and a network lowered to its kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvm_mnas.cores.precision import FLOAT32, Precision


@dataclass(frozen=True, slots=True)
class Kernel:
    """One distinct function of a network: the unit of tuning.

    `key` is the structural hash of its code, equal in every process and network; `calls` counts how often the
    network runs it; `flops` are its floating-point operations (two per multiply-add), `moved_bytes` the size of what it
    reads and writes, each once; `workload` is the code in MetaSchedule's own JSON form.
    """

    name: str
    key: str
    calls: int
    flops: int
    moved_bytes: int
    workload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoweredNetwork:
    """A network in kernels, its weights still as they are; `artifact.compile_network` goes on from here.

    `input_shape` is (N,C,H,W); `target` the JSON text of the TVM target it was lowered for; it computes in `precision`.
    """

    input_shape: tuple[int, int, int, int]
    target: str
    kernels: tuple[Kernel, ...]
    module: Any = field(repr=False, compare=False)
    input_dtype: str = "float32"
    precision: Precision = FLOAT32

    @property
    def kernel_calls(self) -> int:
        """How many kernels one run of the network calls."""
        return sum(kernel.calls for kernel in self.kernels)

    @property
    def flops(self) -> int:
        """The floating-point operations of all calls of its kernels."""
        return sum(kernel.calls * kernel.flops for kernel in self.kernels)

    @property
    def moved_bytes(self) -> int:
        """The bytes that all calls of its kernels read and write."""
        return sum(kernel.calls * kernel.moved_bytes for kernel in self.kernels)


def distinct_kernels(networks: Sequence[LoweredNetwork]) -> tuple[Kernel, ...]:
    """Return the kernels of `networks`, each once, with its calls in all of them."""
    calls: Counter[str] = Counter()
    kernels: dict[str, Kernel] = {}
    for network in networks:
        for kernel in network.kernels:
            calls[kernel.key] += kernel.calls
            kernels.setdefault(kernel.key, kernel)
    return tuple(replace(kernel, calls=calls[key]) for key, kernel in kernels.items())
