"""Whether a compiled network computes what it should: compared so that a wrong one has nowhere to hide.

A tolerance relative to the outputs' size is none for a softmax over many classes, nor for outputs that are mostly a
bias: a network that is wrong, or that does not look at the image, would pass. So differences are measured against how
far the outputs differ from image to image, and outputs that hardly do are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.errors import MeasurementError

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.models.detection.suppression import SuppressionRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How near to the judge's, in float32, outputs of one precision must be.

    `difference` is the largest, relative to how far the outputs differ from image to image. `rounding` is what may be
    added to it, relative to the outputs' magnitude: some units in the last place. `least_spread` is how far outputs
    must differ from image to image, relative to their magnitude, for a difference to mean something.
    """

    difference: float
    rounding: float
    least_spread: float


_ROUNDING_16 = 2.0**-11
"""What float16 rounds to; float32 rounds to 2^-24."""
_ROUNDING_BFLOAT = 2.0**-8
TOLERANCES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        FLOAT32: Tolerance(difference=1e-4, rounding=1e-6, least_spread=1e-3),
        Precision("float16", "float32"): Tolerance(
            difference=64 * _ROUNDING_16, rounding=_ROUNDING_16, least_spread=64 * _ROUNDING_16
        ),
        Precision("float16", "float16"): Tolerance(
            difference=128 * _ROUNDING_16, rounding=_ROUNDING_16, least_spread=64 * _ROUNDING_16
        ),
        Precision("bfloat16", "float32"): Tolerance(
            difference=16 * _ROUNDING_BFLOAT,
            rounding=_ROUNDING_BFLOAT,
            least_spread=16 * _ROUNDING_BFLOAT,
        ),
    }
)
"""By what the network was computed in.

No network in float16 comes within 1e-4. torch's own runs in float16, of four MnasNets and MobileNets of the zoo and 24
networks drawn from the spaces that ship, are 1 to 12 of its roundings off; MnasNet-B1 with sums in float32 was 3 off in
an emulator: 64. With sums in float16 it was 16 off there, MnasNet-A1 30 to 53 by its images: 128. An output is rounded
itself, by one; images that differ by less than 64 would have to be told apart in that. In bfloat16 MnasNet-B1 was 5 of
its roundings off on a Xeon, and all operations of the spaces less than 8 in an emulator: 16.
"""
CHECKED_IMAGES = 3
"""On how many images a compiled network must agree before its time counts."""

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """What computes a network's outputs by other means than the compiler, and its `name` with the version.

    `outputs` returns every output for images (K and the other axes of the input). A detector has a `rule`, by which its
    detections follow from these outputs, boxes and scores.
    """

    name: str
    outputs: Callable[[Array], tuple[Array, ...]]
    rule: SuppressionRule | None = None


def torch_judge(network: nn.Module, *, batch_size: int) -> Judge:
    """Return torch as the judge of `network`, in eval mode, which takes `batch_size` images at a time."""
    import torch

    from tvm_mnas.models.detection.detector import Detector, Explained
    from tvm_mnas.models.inference import all_outputs

    judged = Explained(network) if isinstance(network, Detector) else network
    return Judge(
        name=f"torch {torch.__version__}",
        outputs=partial(all_outputs, judged, batch_size=batch_size),
        rule=network.rule if isinstance(network, Detector) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the compiled network's outputs are from the `judge`'s, on `images` images.

    `difference` is the largest of any output, relative to how far that output differs from image to image; of
    detections, the largest of a score or a side, in parts of the image.
    """

    judge: str
    images: int
    difference: float


def check_images(shape: Sequence[int], dtype: str, *, seed: int) -> Array:
    """Return images (K and the other axes of `shape`) that a network should tell apart; K is a multiple of N.

    Noise of several strengths over smooth brightness, so that what is saturated by one may not be by another.
    """
    count = -(-CHECKED_IMAGES // shape[0]) * shape[0]
    rng = np.random.default_rng(seed)
    each = (count, *(1 for _ in shape[1:]))
    noise = rng.standard_normal((count, *shape[1:]), dtype=np.float32)
    strengths = np.resize(np.array([0.5, 1.0, 2.0], dtype=np.float32), each)
    brightness = rng.standard_normal(each, dtype=np.float32) / 2
    images: Array = strengths * noise + brightness
    if dtype == "uint8":
        images = np.clip(128 + 48 * images, 0, 255)
    return images.astype(dtype)


def compare(
    found: Sequence[Array], expected: Sequence[Array], *, judge: Judge, precision: Precision
) -> Agreement:
    """Return how far the device's outputs `found` are from what the judge `expected`.

    Raises:
        MeasurementError: as `compare_outputs` and `compare_detections` do.
    """
    if judge.rule is None:
        return compare_outputs(found, expected, judge=judge.name, precision=precision)
    return compare_detections(found, expected, judge.rule, judge=judge.name, precision=precision)


def compare_detections(
    found: Sequence[Array],
    expected: Sequence[Array],
    rule: SuppressionRule,
    *,
    judge: str,
    precision: Precision = FLOAT32,
) -> Agreement:
    """Return how far the device's detections are from the boxes and scores that the judge `expected`.

    What the network predicts follows those: the more it differs from image to image, the more boxes and scores may
    differ, which are a fourth of it at most where they change fastest.

    Raises:
        MeasurementError: if they do not follow from those by `rule`, or hardly depend on the image.
    """
    from tvm_mnas.models.detection.checking import unexplained

    (detections,) = (one.astype(np.float64) for one in found)
    boxes, scores, *predictions = (one.astype(np.float64) for one in expected)
    if not np.isfinite(detections).all():
        raise MeasurementError(
            f"the detections on the device must be finite, and {_not_finite(detections)} are not; look at the "
            f"network's weights"
        )
    tolerance = TOLERANCES[precision]
    differing = max(float(np.ptp(one, axis=0).max(initial=0.0)) for one in predictions)
    allowed = tolerance.difference * max(1.0, differing / 4)
    worst = 0.0
    for number, image in enumerate(zip(detections, boxes, scores, strict=True), 1):
        wrong, off = unexplained(*image, rule, off=allowed)
        if wrong is not None:
            raise MeasurementError(
                f"the detections on the device are wrong in image {number}: by {judge}'s boxes and scores, {wrong}"
            )
        worst = max(worst, off)
    spread = max(float(np.ptp(one, axis=0).max(initial=0.0)) for one in (boxes, scores))
    if len(boxes) > 1 and spread < tolerance.least_spread:
        raise MeasurementError(
            f"cannot compare the detections with {judge}'s: they must depend on the image, and are the same for "
            f"{len(boxes)} images but for {tolerance.least_spread:.1%}; load trained weights, or check the export"
        )
    return Agreement(judge=judge, images=len(boxes), difference=worst)


def compare_outputs(
    found: Sequence[Array],
    expected: Sequence[Array],
    *,
    judge: str,
    precision: Precision = FLOAT32,
) -> Agreement:
    """Return how far the device's outputs `found` are from the judge's, each (K and the axes of that output).

    They were computed in `precision`, which says how near they must be.

    Raises:
        MeasurementError: if there are others, not finite ones, such that hardly depend on the image, or wrong ones.
    """
    shapes, wanted = [output.shape for output in found], [output.shape for output in expected]
    if shapes != wanted:
        raise MeasurementError(
            f"the outputs on the device must be of shapes {wanted}, as {judge} has them; they are of {shapes}"
        )
    tolerance = TOLERANCES[precision]
    worst = 0.0
    dependent = False
    for number, (got, right) in enumerate(zip(found, expected, strict=True)):
        name = f"output {number + 1} of {len(found)}" if len(found) > 1 else "the output"
        outputs, values = got.astype(np.float64), right.astype(np.float64)
        if not np.isfinite(outputs).all():
            raise MeasurementError(
                f"the outputs on the device must be finite, and {_not_finite(outputs)} of {name} are not; look at the "
                f"network's weights"
            )
        if not np.isfinite(values).all():
            # Nothing is further from a NaN than the tolerance, so that any output would pass.
            raise MeasurementError(
                f"cannot compare the outputs: those of {judge} must be finite where the device's are, and "
                f"{_not_finite(values)} of {name} are not; look at the network's weights"
            )
        magnitude = float(np.abs(values).max(initial=0.0))
        spread = float(np.ptp(values, axis=0).max(initial=0.0))
        allowed = tolerance.difference * spread + tolerance.rounding * magnitude
        difference = float(np.abs(outputs - values).max(initial=0.0))
        if difference > allowed:
            raise MeasurementError(
                f"{name} on the device is wrong: it must be within {allowed:.2g} of {judge}'s, and is {difference:.2g} "
                f"off, where images differ by {spread:.2g}"
            )
        if spread >= tolerance.least_spread * magnitude and spread > 0:
            dependent = True
            worst = max(worst, difference / spread)
    if not dependent:
        raise MeasurementError(
            f"cannot compare the outputs with {judge}'s: they must depend on the image, and are the same for "
            f"{len(expected[0])} images but for {tolerance.least_spread:.1%}; load trained weights, or check the export"
        )
    return Agreement(judge=judge, images=len(expected[0]), difference=worst)


def _not_finite(values: NDArray[np.float64]) -> str:
    return f"{int((~np.isfinite(values)).sum())} of {values.size} numbers"
