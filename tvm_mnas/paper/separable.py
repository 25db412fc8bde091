"""One 5x5 against two 3x3 depthwise separable convolutions: equations 5 and 6 of the paper, counted and timed.

Both see the same pixels. The paper argues by mult-adds "assuming the kernels are both reasonably optimized"; here
stands beside them what the kernels take, tuned and as TVM builds them by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.models.zoo.entry import ZooEntry
from tvm_mnas.workflows.compare import ModelTiming, time_on_toolchain
from tvm_mnas.workflows.model_ref import ModelRef

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.compiler.core.kernel import LoweredNetwork

SHAPES = ((56, 24), (28, 40), (14, 80), (14, 96), (7, 192))
"""Height or width, and channels, of the blocks of Figure 7's network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPair:
    """Both ways at one shape (size, size, channels) -> (size, size, channels).

    Mult-adds by equation 5; times in microseconds, None where one was not measured. A tuned time is that of a network
    with the layers less that of the same network without them; an untuned one is the sum of the kernels'.
    """

    size: int
    channels: int
    tuned_us: tuple[float | None, float | None] = (None, None)
    untuned_us: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels < 1:
            raise ConfigError(
                f"a layer must have pixels and channels, not {self.size} and {self.channels}"
            )

    @property
    def mult_adds(self) -> tuple[int, int]:
        """Of one 5x5 and of two 3x3 (paper, equation 5): H W M (k^2 + N), here with M = N."""
        pixels = self.size * self.size * self.channels
        return pixels * (25 + self.channels), 2 * pixels * (9 + self.channels)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a ratio is that of one 5x5 to two 3x3, so below 1 the 5x5 is cheaper."""
        row: dict[str, Any] = {"shape": f"{self.size}x{self.size}x{self.channels}"}
        for name, pair in (
            ("mult_adds", self.mult_adds),
            ("tuned_us", self.tuned_us),
            ("untuned_us", self.untuned_us),
        ):
            one, two = pair
            row[f"{name}_5x5"], row[f"{name}_two_3x3"] = one, two
            row[f"{name}_ratio"] = one / two if one is not None and two else None
        return row


def compare_layers(
    shapes: Sequence[tuple[int, int]],
    options: ToolchainOptions,
    *,
    device: str,
    rounds: int,
    observer: Observer,
) -> tuple[list[LayerPair], list[ModelTiming]]:
    """Return both ways at each of `shapes`, tuned and untuned on `device`, and the networks timed for it in `rounds`.

    Raises:
        DeviceError: if the device cannot be reached or is gone.
        RecordsError: if the records cannot be read or written.
    """
    from tvm_mnas.devices.core.profile import load_profile

    with open_scratch_toolchain(
        load_profile(device),
        options,
        on_warning=observer.note,
    ) as (toolchain, directory):
        models = [model for size, channels in shapes for model in _models(size, channels)]
        timed = time_on_toolchain(
            toolchain, models, directory, seed=options.seed, observer=observer, rounds=rounds
        )
        pairs = []
        for number, (size, channels) in enumerate(shapes):
            observer.stage("untuned kernels", number, len(shapes))
            at = 3 * number
            untuned = _untuned_us(toolchain, models[at : at + 3], options.seed)
            pairs.append(make_pair(size, channels, timed[at : at + 3], untuned))
    return pairs, timed


def make_pair(
    size: int,
    channels: int,
    timed: Sequence[ModelTiming],
    untuned_us: tuple[float | None, float | None],
) -> LayerPair:
    """Return the pair from its three networks: without the layers, with one 5x5, with two 3x3."""
    bare, one, two = (entry.latency_ms for entry in timed)

    def added_us(latency_ms: float | None) -> float | None:
        if bare is None or latency_ms is None or latency_ms <= bare:
            # Noise larger than the layer: no time to speak of.
            return None
        return (latency_ms - bare) * 1e3

    return LayerPair(
        size=size,
        channels=channels,
        tuned_us=(added_us(one), added_us(two)),
        untuned_us=untuned_us,
    )


def _untuned_us(
    toolchain: Toolchain, models: Sequence[ModelRef], seed: int
) -> tuple[float | None, float | None]:
    bare, one, two = (model.load(seed=seed).lower(toolchain.profile) for model in models)
    return tuple(  # type: ignore[return-value]
        _sum_untuned_us(toolchain, bare, network) for network in (one, two)
    )


def _sum_untuned_us(
    toolchain: Toolchain, bare: LoweredNetwork, network: LoweredNetwork
) -> float | None:
    """Return the untuned time of the kernels that `network` calls more often than `bare`, None if one has none."""
    calls = Counter({kernel.key: kernel.calls for kernel in network.kernels})
    calls.subtract({kernel.key: kernel.calls for kernel in bare.kernels})
    total = 0.0
    for kernel in network.kernels:
        if calls[kernel.key] <= 0:
            continue
        time_us = toolchain.time_untuned(kernel)
        if time_us is None:
            return None
        total += calls[kernel.key] * time_us
    return total


def _models(size: int, channels: int) -> list[ModelRef]:
    return [
        ModelRef(
            name=f"{size}x{size}x{channels} {name}",
            entry=ZooEntry(
                key=f"layers-{size}-{channels}-{kernel_size}-{repeats}",
                name=name,
                builder=partial(_build, channels, kernel_size, repeats),
                input_size=size,
            ),
        )
        for name, kernel_size, repeats in (
            ("without", 3, 0),
            ("one 5x5", 5, 1),
            ("two 3x3", 3, 2),
        )
    ]


def _build(channels: int, kernel_size: int, repeats: int, seed: int) -> nn.Module:
    from tvm_mnas.models.zoo.separable import build_separable

    return build_separable(channels, kernel_size=kernel_size, repeats=repeats, seed=seed)
