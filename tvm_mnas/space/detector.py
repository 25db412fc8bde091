"""Detectors as candidates: a network of blocks with SSDLite's maps and predictors in the place of its classifier.

The notation is that of the network behind `ssdlite+`; its classes are those of objects, without the background:

    ssdlite+i320_c3_w1:stem32_s22:r1_k3_s11_e1_o16_noskip:r2_k3_s22_e6_o24:head1280:n80
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.space import Decision, SearchSpace

PREFIX = "ssdlite+"


@dataclass(frozen=True)
class DetectorArchitecture:
    """SSDLite on the `backbone`, whose classes are those of objects.

    Raises:
        SpaceError: if no layer of the backbone has a stride of 2, of which SSDLite takes a map.
    """

    backbone: Architecture

    def __post_init__(self) -> None:
        last_strided(self.backbone)

    @cached_property
    def notation(self) -> str:
        """The one-line notation; `parse` reads it back to an equal one."""
        return PREFIX + self.backbone.notation

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal for detectors which are the same network."""
        return hashlib.sha256((PREFIX + self.backbone.id).encode()).hexdigest()[:12]

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """The shape (1,C,H,W) of one image."""
        return self.backbone.image_shape

    @property
    def input_size(self) -> int:
        """Height and width of an image."""
        return self.backbone.input_size

    @property
    def input_channels(self) -> int:
        """Channels of an image."""
        return self.backbone.input_channels

    @property
    def classes(self) -> int:
        """How many classes of objects it tells apart."""
        return self.backbone.classes

    def __str__(self) -> str:
        return self.notation

    def of_classes(self, classes: int) -> DetectorArchitecture:
        """Return it with predictors of so many classes of objects."""
        return DetectorArchitecture(replace(self.backbone, classes=classes))

    @classmethod
    def parse(cls, text: str) -> DetectorArchitecture:
        """Return the detector that the notation `text` means.

        Raises:
            SpaceError: if it cannot be read.
        """
        stripped = text.strip()
        if not stripped.startswith(PREFIX):
            raise SpaceError(f"a detector's notation begins with {PREFIX}; this one is {text!r}")
        return cls(Architecture.parse(stripped.removeprefix(PREFIX)))


@dataclass(frozen=True)
class DetectorSpace:
    """SSDLite on every network of a space of blocks, for so many `classes` of objects."""

    backbones: SearchSpace
    classes: int

    @property
    def name(self) -> str:
        """What people call it."""
        return self.backbones.name

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Those of the backbones."""
        return self.backbones.decisions

    @property
    def size(self) -> int:
        """The number of different token sequences."""
        return self.backbones.size

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything that a token can mean."""
        text = f"{PREFIX}{self.backbones.fingerprint}:{self.classes}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decode(self, tokens: Sequence[int]) -> DetectorArchitecture:
        """Return the detector that `tokens`, one index per decision, mean; SpaceError if they mean none."""
        return DetectorArchitecture(self.backbones.decode(tokens)).of_classes(self.classes)

    def encode(self, detector: DetectorArchitecture) -> tuple[int, ...]:
        """Return the tokens that `detector` is decoded from; SpaceError if there are none."""
        backbone = replace(detector.backbone, classes=self.backbones.classes)
        return self.backbones.encode(backbone)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return tokens drawn uniformly from `rng`."""
        return self.backbones.sample(rng)


def last_strided(architecture: Architecture) -> int:
    """Return which layer of `architecture` is the last with a stride of 2.

    Raises:
        SpaceError: if none is.
    """
    for index in reversed(range(len(architecture.layers))):
        if architecture.layers[index].stride == 2:
            return index
    raise SpaceError(
        f"SSDLite takes a map from before a network's last layer of stride 2, and no block of "
        f"{architecture.notation} has one; take another network"
    )
