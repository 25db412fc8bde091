"""Table 3: the baseline MnasNet, and what becomes of it when all of its layers are of one kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_mnas.models.zoo.registry import zoo_entry
from tvm_mnas.space.architecture import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A row of Table 3: an architecture, and what was published of it (its latency on a Pixel 1)."""

    key: str
    name: str
    architecture: Architecture
    published_top1_percent: float
    published_latency_ms: float


def table_3() -> tuple[Variant, ...]:
    """Return the rows of Table 3 in its order.

    A variant keeps the number of layers, the filters and the strides of every block; the kernel size and the
    expansion are those of one layer of Figure 7. The first block, a separable convolution there, is no exception.
    """
    return tuple(
        Variant(
            key=key,
            name=name,
            architecture=_of_one_kind(kind),
            published_top1_percent=top1_percent,
            published_latency_ms=latency_ms,
        )
        for key, name, kind, top1_percent, latency_ms in (
            ("mnasnet", "MnasNet", None, 74.0, 76),
            ("figure7-b", "Figure 7 (b) only: MBConv3 3x3", (3, 3), 71.3, 67),
            ("figure7-c", "Figure 7 (c) only: MBConv3 5x5", (5, 3), 72.3, 84),
            ("figure7-d", "Figure 7 (d) only: MBConv6 3x3", (3, 6), 74.1, 123),
            ("figure7-e", "Figure 7 (e) only: MBConv6 5x5", (5, 6), 74.8, 157),
        )
    )


def _of_one_kind(kind: tuple[int, int] | None) -> Architecture:
    """Return Figure 7's network, its layers all of this (kernel size, expansion)."""
    notation = zoo_entry("mnasnet").notation
    assert notation is not None
    if kind is not None:
        kernel_size, expansion = kind
        notation = re.sub(r"_k\d_(s\d+)_e\d_", rf"_k{kernel_size}_\1_e{expansion}_", notation)
    return Architecture.parse(notation)
