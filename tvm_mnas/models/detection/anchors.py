"""Anchors: the boxes that a detector's predictions are relative to, as each published detector lays them.

A box is (center x, center y, width, height) as parts (0..1) of the image's sides. The order is that of the predictions
(`models/zoo/heads.py`): map by map, pixel by pixel in rows, and all anchors of a pixel in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AnchorMap:
    """One feature map: `size` x `size` pixels, at each of which lie anchors of these `shapes`, (width, height).

    Raises:
        ValueError: if the map has no pixel, or no shape, or a shape has no area.
    """

    size: int
    shapes: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if self.size < 1 or not self.shapes:
            raise ValueError(f"a map has pixels and shapes, not {self.size} and {self.shapes}")
        for width, height in self.shapes:
            if not (0 < width < math.inf and 0 < height < math.inf):
                raise ValueError(f"an anchor has an area, not {width} x {height}")

    @property
    def count(self) -> int:
        """How many anchors lie on the map."""
        return self.size * self.size * len(self.shapes)


def boxes_of(maps: Sequence[AnchorMap]) -> Tensor:
    """Return the anchors of all `maps`, (A,4) of float32: center x, center y, width, height."""
    rows = []
    for one in maps:
        centers = [(at + 0.5) / one.size for at in range(one.size)]
        rows += [
            (x, y, width, height) for y in centers for x in centers for width, height in one.shapes
        ]
    return torch.tensor(rows, dtype=torch.float32)


def ssdlite_maps(sizes: Sequence[int]) -> list[AnchorMap]:
    """Return SSDLite's maps of these `sizes`, the finest first.

    As `ssd_anchor_generator` of ssdlite_mobilenet_v2_coco.config has them (github.com/tensorflow/models,
    research/object_detection, anchor_generators/multiple_grid_anchor_generator.py): scales from 0.2 to 0.95 in equal
    steps; three shapes on the finest map, the first of scale 0.1; on the others the ratios 1, 2, 1/2, 3, 1/3 and a
    square between this scale and the next.

    Raises:
        ValueError: if there are fewer than two maps.
    """
    if len(sizes) < 2:
        raise ValueError(f"SSDLite has two maps or more, not {len(sizes)}")
    least, most = 0.2, 0.95
    scales = [least + (most - least) * at / (len(sizes) - 1) for at in range(len(sizes))] + [1.0]
    finest = AnchorMap(sizes[0], (_shape(0.1, 1.0), _shape(scales[0], 2.0), _shape(scales[0], 0.5)))
    maps = [finest]
    for at in range(1, len(sizes)):
        shapes = [_shape(scales[at], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)]
        shapes.append(_shape(math.sqrt(scales[at] * scales[at + 1]), 1.0))
        maps.append(AnchorMap(sizes[at], tuple(shapes)))
    return maps


def ssd_maps(image_size: int, sizes: Sequence[int], edges: Sequence[float]) -> list[AnchorMap]:
    """Return SSD's maps of these `sizes` for COCO, the finest first.

    `edges` are the squares' sides in pixels of the image, one more than maps: a map has a square of its own edge, one
    between this edge and the next, and boxes of ratio 2 (the first map and the last two) or 2 and 3, either way
    (Liu et al. 2016, section 2.2; the edges in github.com/weiliu89/caffe, examples/ssd/ssd_coco.py).

    Raises:
        ValueError: if there is not one edge more than maps.
    """
    if len(edges) != len(sizes) + 1:
        raise ValueError(f"{len(sizes)} maps have {len(sizes) + 1} edges, not {len(edges)}")
    maps = []
    for at, size in enumerate(sizes):
        scale, following = edges[at] / image_size, edges[at + 1] / image_size
        ratios = (2.0,) if at in (0, len(sizes) - 2, len(sizes) - 1) else (2.0, 3.0)
        shapes = [_shape(scale, 1.0), _shape(math.sqrt(scale * following), 1.0)]
        for ratio in ratios:
            shapes += [_shape(scale, ratio), _shape(scale, 1 / ratio)]
        maps.append(AnchorMap(size, tuple(shapes)))
    return maps


def _shape(scale: float, ratio: float) -> tuple[float, float]:
    """Return width and height of a box of the area scale^2 whose width is `ratio` times its height."""
    return scale * math.sqrt(ratio), scale / math.sqrt(ratio)
