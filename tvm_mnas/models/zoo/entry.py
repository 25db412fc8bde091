"""What the zoo knows of one network: how it is built, what was published, and where the two differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import ConfigError
from tvm_mnas.models.cost import Cost, count_cost, count_module
from tvm_mnas.space.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

SLIM = "github.com/tensorflow/models, research/slim"
KERAS = "keras.applications"
"""Whose counts several entries quote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A row of Table 1 as printed, rounding included; None where it prints a dash.

    `pixel_latency_ms` is TensorFlow Lite's on the big core of a Pixel 1, the authors' measurement.
    """

    parameters: int
    mult_adds: int
    top1_percent: float
    top5_percent: float | None = None
    pixel_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if min(self.parameters, self.mult_adds) < 1:
            raise ConfigError("published counts are 1 or more; correct the zoo's entry")
        if not 0 < self.top1_percent <= (self.top5_percent or 100) <= 100:
            raise ConfigError("top-1 is at most top-5, in percent; correct the zoo's entry")

    @property
    def accuracy_percent(self) -> float:
        """Top-1."""
        return self.top1_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDetection:
    """A row of Table 2 as printed, rounding included; None where it prints a dash.

    `map_percent` is COCO's mean average precision on test-dev, `pixel_latency_ms` as in :class:`Published`.
    """

    parameters: int
    mult_adds: int
    map_percent: float
    pixel_latency_ms: float | None = None

    def __post_init__(self) -> None:
        if min(self.parameters, self.mult_adds) < 1:
            raise ConfigError("published counts are 1 or more; correct the zoo's entry")
        if not 0 < self.map_percent <= 100:
            raise ConfigError("mAP is in percent, above 0; correct the zoo's entry")

    @property
    def accuracy_percent(self) -> float:
        """Mean average precision."""
        return self.map_percent


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One network: either a `notation`, or a `builder` that takes a seed and returns the torch module.

    `published` is its row of Table 1 or 2, None where it has none. `author_parameters` are the trainable
    parameters by the authors' own code or by weights made from it, and `counted_by` names that code; None where
    no count is public. `deviation` tells in a line where the network differs from what was published, and why.
    `widens_head` tells whether its authors' depth multiplier, where it is above one, scales the head too.
    """

    key: str
    name: str
    notation: str | None = None
    builder: Callable[[int], nn.Module] | None = None
    published: Published | PublishedDetection | None = None
    author_parameters: int | None = None
    counted_by: str = ""
    deviation: str = ""
    input_size: int = 224
    widens_head: bool = False

    def __post_init__(self) -> None:
        if (self.notation is None) == (self.builder is None):
            raise ConfigError(f"{self.key}: a network of the zoo has a notation or a builder")
        if (self.author_parameters is None) != (not self.counted_by):
            raise ConfigError(f"{self.key}: a count names the code that it comes from")
        if "\n" in self.deviation:
            raise ConfigError(f"{self.key}: a deviation is told in one line")

    @cached_property
    def architecture(self) -> Architecture | None:
        """The architecture, None for a network that is no sequence of blocks."""
        return None if self.notation is None else Architecture.parse(self.notation)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N,C,H,W) of one image."""
        return (1, 3, self.input_size, self.input_size)

    def build(self, *, seed: int = 0) -> nn.Module:
        """Return the network in training mode, its weights drawn from `seed` alone.

        :attr:`input_shape` -> (N,1000), or a detector's boxes (:class:`~tvm_mnas.models.detection.detector.Detector`).
        """
        if self.architecture is not None:
            from tvm_mnas.models.network import build_network

            return build_network(self.architecture, seed=seed)
        assert self.builder is not None
        return self.builder(seed)

    @cached_property
    def cost(self) -> Cost:
        """Parameters and mult-adds, counted; torch is needed only for what has no notation."""
        if self.architecture is not None:
            return count_cost(self.architecture)
        return count_module(self.build(), self.input_shape)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the counts among them."""
        published = self.published
        classified = published if isinstance(published, Published) else None
        detected = published if isinstance(published, PublishedDetection) else None
        return {
            "key": self.key,
            "name": self.name,
            "notation": self.notation,
            "input_size": self.input_size,
            "parameters": self.cost.parameters,
            "mult_adds": self.cost.mult_adds,
            "author_parameters": self.author_parameters,
            "counted_by": self.counted_by or None,
            "published_parameters": None if published is None else published.parameters,
            "published_mult_adds": None if published is None else published.mult_adds,
            "published_top1_percent": classified.top1_percent if classified else None,
            "published_top5_percent": classified.top5_percent if classified else None,
            "published_map_percent": detected.map_percent if detected else None,
            "published_pixel_latency_ms": None if published is None else published.pixel_latency_ms,
            "deviation": self.deviation,
        }
