"""Where images with boxes come from: `coco:PATH`, `voc:PATH`, `yolo:PATH`, and `drawn`, which needs nothing.

    coco:  annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/, val2017/
    voc:   Annotations/*.xml, JPEGImages/, ImageSets/Main/train.txt, val.txt, test.txt
    yolo:  images/train/, images/val/, labels/train/, labels/val/, data.yaml or classes.txt

or as Roboflow exports them, train/_annotations.coco.json beside its images, train/images/ and train/labels/.

Part names may have a year behind train, val and test. The test is the part called so, or else val; a validation that is
not there is held out of the images for training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import DataError
from tvm_mnas.training.detection.annotations import DetectionSet
from tvm_mnas.training.detection.coco import read_coco
from tvm_mnas.training.detection.drawn import CLASS_NAMES, DrawnImages
from tvm_mnas.training.detection.voc import read_voc
from tvm_mnas.training.detection.yolo import read_names, read_yolo

if TYPE_CHECKING:
    from tvm_mnas.training.data.images import LoadOptions
    from tvm_mnas.training.data.splits import DataSplits
    from tvm_mnas.training.detection.splits import AnnotatedStore

_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_HELD_OUT = 0.2
_ROBOFLOW = "_annotations.coco.json"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_DRAWN = {"train": (1000, 1), "validation": (100, 2), "test": (200, 3)}
"""How many images each part of the drawn set has, and its seed: it is the same for every run."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a set: where its annotations are, and the directory of its images."""

    annotations: Path
    images: Path


Parts = dict[str, _Part]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A directory of images and annotations; `find` tells its parts, `read` reads one of them.

    `read` is given the part, and the names of the classes if they are known from another. `form` is what a directory
    has at least.
    """

    kind: str
    form: str
    find: Callable[[Path], Parts]
    read: Callable[[Path, _Part, tuple[str, ...] | None], DetectionSet]

    def check(self, location: str) -> None:
        """Look whether the parts are there, without reading them; DataError if not."""
        self._parts(location)

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the classes in the order of their labels."""
        root, parts = self._parts(location)
        return self.read(root, parts["train"], None).class_names

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits; DataError if something is missing or malformed."""
        from tvm_mnas.training.data.stored import FileStore
        from tvm_mnas.training.detection.splits import detection_splits, held_out

        root, parts = self._parts(location)
        found: dict[str, tuple[FileStore, DetectionSet]] = {}
        names: tuple[str, ...] | None = None
        for name, part in parts.items():
            data = self.read(root, part, names)
            if names is not None and data.class_names != names:
                raise DataError(
                    f"{part.annotations}: every part has the same classes, and here they are "
                    f"{', '.join(data.class_names)!s:.80}, not {', '.join(names)!s:.80}; complete them"
                )
            names = data.class_names
            found[name] = FileStore(tuple(part.images / one.file for one in data.images)), data
        rest: AnnotatedStore = found["train"]
        last: AnnotatedStore | None = found.get("test", found.get("validation"))
        if last is None:
            rest, last = held_out(*rest, fraction=_HELD_OUT, seed=0)
        first: AnnotatedStore
        second: AnnotatedStore
        if "test" in found and "validation" in found:
            first, second = rest, found["validation"]
        else:
            first, second = held_out(*rest, fraction=_HELD_OUT, seed=options.seed)
        return detection_splits([first, second, last], options, name=f"{self.kind}:{root}")

    def _parts(self, location: str) -> tuple[Path, Parts]:
        if not location or "\0" in location:
            raise DataError(
                f"{self.kind}: needs the path of a directory, as in {self.kind}:/data/set"
            )
        root = Path(os.path.expanduser(location))
        if not root.is_dir():
            raise DataError(
                f"{self.kind}: needs a directory, and {str(root)!r} is none; check the path, or use `--data drawn`"
            )
        parts = self.find(root)
        if "train" not in parts:
            raise DataError(
                f"{self.kind}: a directory has {self.form}, and {root} has no part for training; check the path"
            )
        return root, {name: parts[name] for name in _PARTS if name in parts}


@dataclass(frozen=True, slots=True)
class DrawnSource:
    """Shapes drawn as they are needed."""

    def check(self, location: str) -> None:
        """Nothing can be missing; DataError where something is named."""
        if location:
            raise DataError(
                f"drawn images have no place; write `--data drawn`, without {location!r}"
            )

    def class_names(self, location: str) -> tuple[str, ...]:
        """Return the names of the shapes."""
        self.check(location)
        return CLASS_NAMES

    def load(self, location: str, options: LoadOptions) -> DataSplits:
        """Return the splits."""
        from tvm_mnas.training.detection.splits import detection_splits

        self.check(location)
        stores = [DrawnImages(count, seed) for count, seed in _DRAWN.values()]
        return detection_splits(
            [(store, store.annotations) for store in stores], options, name="drawn"
        )


def _part_of(name: str) -> str | None:
    """Return which part a directory or file of that name is."""
    lowered = name.lower().removeprefix("instances_")
    for part, words in _PARTS.items():
        if any(lowered.rstrip("0123456789_-") == word for word in words):
            return part
    return None


def _directories(root: Path) -> dict[str, Path]:
    """Return the directories in `root` that are parts."""
    found: dict[str, Path] = {}
    for place in sorted(root.iterdir()) if root.is_dir() else ():
        part = _part_of(place.name)
        if place.is_dir() and part is not None:
            found.setdefault(part, place)
    return found


def _coco_parts(root: Path) -> Parts:
    folder = root / "annotations"
    parts: Parts = {}
    for file in sorted(folder.glob("*.json")):
        part = _part_of(file.stem)
        if part is None or part in parts:
            continue
        name = file.stem.removeprefix("instances_")
        places = (root / name, root / "images" / name, root / "images", root)
        parts[part] = _Part(file, next(place for place in places if place.is_dir()))
    for part, place in _directories(root).items():
        if (place / _ROBOFLOW).is_file():
            parts.setdefault(part, _Part(place / _ROBOFLOW, place))
    return parts


def _read_coco(root: Path, part: _Part, names: tuple[str, ...] | None) -> DetectionSet:
    return read_coco(part.annotations)


def _voc_parts(root: Path) -> Parts:
    parts: Parts = {}
    for file in sorted((root / "ImageSets" / "Main").glob("*.txt")):
        part = _part_of(file.stem)
        if part is not None:
            parts[part] = _Part(file, root / "JPEGImages")
    return parts


def _read_voc(root: Path, part: _Part, names: tuple[str, ...] | None) -> DetectionSet:
    try:
        listed = part.annotations.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"a list of images cannot be read from {part.annotations} ({error})") from error  # fmt: skip
    images = [line.split()[0] for line in listed if line.strip()]
    return read_voc([root / "Annotations" / f"{image}.xml" for image in images], names)


def _yolo_parts(root: Path) -> Parts:
    folder = root / "images"
    parts = {
        part: _Part(root / "labels" / place.name, place)
        for part, place in _directories(folder).items()
    }
    for part, place in _directories(root).items():
        if (place / "images").is_dir():
            parts.setdefault(part, _Part(place / "labels", place / "images"))
    if not parts and folder.is_dir():
        parts["train"] = _Part(root / "labels", folder)
    return parts


def _read_yolo(root: Path, part: _Part, names: tuple[str, ...] | None) -> DetectionSet:
    images = sorted(file for file in part.images.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not part.annotations.is_dir():
        raise DataError(f"yolo: labels are beside images, and {part.annotations} is no directory")
    return read_yolo(images, part.annotations, read_names(root))


COCO = FolderSource(
    "coco", "annotations/instances_train2017.json and train2017/", _coco_parts, _read_coco
)
VOC = FolderSource(
    "voc", "ImageSets/Main/train.txt, Annotations/ and JPEGImages/", _voc_parts, _read_voc
)
YOLO = FolderSource("yolo", "images/train/ and labels/train/", _yolo_parts, _read_yolo)
DRAWN = DrawnSource()
