"""The kernels of an exported network: what each takes by its record, as TVM builds it by itself, and at least."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import CandidateError, RunError
from tvm_mnas.evaluation.roofline import measure_peak
from tvm_mnas.files import atomic_write_text

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.evaluation.toolchain import Toolchain

KERNELS = "kernels.json"
"""Beside the manifest of an export."""
SCHEMA_VERSION = 1
"""Rises when a key changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """One kernel: how often a run calls it, and its times of one call in microseconds.

    `tuned_us` is its best schedule's, by the records; `untuned_us` what TVM's own takes, None where that does not run;
    `limit_us` the least by the core's measured peak, None where that is not known.
    """

    name: str
    key: str
    calls: int
    tuned_us: float
    untuned_us: float | None
    limit_us: float | None

    def __post_init__(self) -> None:
        times_us = (self.tuned_us, self.untuned_us, self.limit_us)
        if any(time is not None and not time > 0 for time in times_us) or self.calls < 1:
            raise RunError(
                f"a kernel is called once or more, and its times are above 0 us: {self.calls}, {times_us}"
            )


def measure_kernels(toolchain: Toolchain, lowered: LoweredNetwork) -> tuple[KernelFacts, ...]:
    """Return the kernels of `lowered` that have records; those as TVM builds them are timed now, each once.

    Raises:
        DeviceError: if the device stays lost.
    """
    limit = None
    # A probe that does not run there leaves the limit unknown, which the page says.
    with (
        tempfile.TemporaryDirectory(prefix="tvm-mnas-probes-") as probes,
        contextlib.suppress(CandidateError),
    ):
        limit = measure_peak(toolchain, Path(probes))
    facts: list[KernelFacts] = []
    for kernel in lowered.kernels:
        tuned_us = toolchain.store.best_us(kernel.key)
        if tuned_us is None:
            continue
        facts.append(
            KernelFacts(
                name=kernel.name,
                key=kernel.key,
                calls=kernel.calls,
                tuned_us=tuned_us,
                untuned_us=toolchain.time_untuned(kernel),
                limit_us=limit.limit_us(kernel.flops, kernel.moved_bytes) if limit else None,
            )
        )
    return tuple(facts)


def write_kernels(file: Path, kernels: Sequence[KernelFacts]) -> None:
    """Write `kernels` as JSON, which `read_kernels` reads back."""
    values = {"schema": SCHEMA_VERSION, "kernels": [asdict(kernel) for kernel in kernels]}
    atomic_write_text(file, json.dumps(values, indent=1) + "\n")


def read_kernels(file: Path) -> tuple[KernelFacts, ...]:
    """Return the kernels in `file`.

    Raises:
        RunError: if it cannot be read, or is of another version.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA_VERSION:
            raise RunError(f"{file}: format {SCHEMA_VERSION} can be read, not {values['schema']}")
        return tuple(KernelFacts(**one) for one in values["kernels"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file}: kernels cannot be read: {error}; export the network again"
        ) from error
