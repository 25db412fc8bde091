"""Mean average precision as COCO counts it, by pycocotools and nothing of our own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_mnas.errors import UsageError
from tvm_mnas.training.detection.annotations import DetectionSet


@dataclass(frozen=True, slots=True)
class FoundObject:
    """A detection: left, top, width and height in pixels of its image, its class, and how sure it is (0..1)."""

    box: tuple[float, float, float, float]
    label: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePrecision:
    """COCO's averages, each 0..1: over overlaps from 0.5 to 0.95, at two of them, and by the size of the objects.

    None where the data has no object of that size.
    """

    overall: float | None
    at_50: float | None
    at_75: float | None
    small: float | None
    medium: float | None
    large: float | None


def check_installed() -> None:
    """Raise UsageError where pycocotools is not installed."""
    if importlib.util.find_spec("pycocotools") is None:
        raise UsageError(
            "mean average precision needs pycocotools, which is not installed; "
            "`pip install 'tvm-mnas[detection]'` brings it"
        )


def average_precision(
    data: DetectionSet, found: Sequence[Sequence[FoundObject]]
) -> AveragePrecision:
    """Return how precise what was `found` in each image of `data` is.

    Raises:
        UsageError: pycocotools is not installed.
        ValueError: there is not one list for each image.
    """
    if len(found) != len(data.images):
        raise ValueError(f"{len(data.images)} images have as many lists, not {len(found)}")
    check_installed()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # It prints as it goes.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _truth(data)
        truth.createIndex()
        results = _results(found)
        if not results:
            # It cannot load none.
            return _of(0.0 if any(image.objects for image in data.images) else -1.0, data)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [None if value < 0 else float(value) for value in evaluation.stats[:6]]
    overall, at_50, at_75, small, medium, large = values
    return AveragePrecision(
        overall=overall, at_50=at_50, at_75=at_75, small=small, medium=medium, large=large
    )


_SMALL, _LARGE = 32.0**2, 96.0**2
"""Areas in pixels: below the first an object is small, from the second on large (cocodataset.org/#detection-eval)."""


def _of(value: float, data: DetectionSet) -> AveragePrecision:
    """Return `value` wherever `data` has objects."""
    areas = [one.area for image in data.images for one in image.objects if not one.crowd]

    def told(lowest: float, highest: float) -> float | None:
        return value if any(lowest <= area < highest for area in areas) else None

    whole = told(0, float("inf"))
    return AveragePrecision(
        overall=whole,
        at_50=whole,
        at_75=whole,
        small=told(0, _SMALL),
        medium=told(_SMALL, _LARGE),
        large=told(_LARGE, float("inf")),
    )


def _truth(data: DetectionSet) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(data.images, 1):
        for one in image.objects:
            annotations.append(
                {
                    # From 1: an id of 0 is no match to pycocotools.
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": one.label + 1,
                    "bbox": [one.left, one.top, one.width, one.height],
                    "area": one.area,
                    "iscrowd": int(one.crowd),
                }
            )
    return {
        "info": {},
        "images": [
            {"id": number, "width": image.width, "height": image.height}
            for number, image in enumerate(data.images, 1)
        ],
        "categories": [
            {"id": label + 1, "name": name} for label, name in enumerate(data.class_names)
        ],
        "annotations": annotations,
    }


def _results(found: Sequence[Sequence[FoundObject]]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": one.label + 1,
            "bbox": list(one.box),
            "score": one.score,
        }
        for number, image in enumerate(found, 1)
        for one in image
    ]
