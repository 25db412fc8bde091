"""Where images with boxes come from: directories as COCO, VOC and YOLO have them, and damaged ones in one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, class_names, load_data
from tvm_mnas.training.detection.annotations import ObjectBox
from tvm_mnas.training.detection.drawn import CLASS_NAMES, DrawnImages, write_coco
from tvm_mnas.training.detection.splits import DetectionSplit
from tvm_mnas.training.detection.voc import read_voc
from tvm_mnas.training.detection.yolo import read_names, read_yolo

OPTIONS = LoadOptions(input_size=64, workers=0, seed=3)

VOC = """<annotation><filename>{name}.jpg</filename>
<size><width>100</width><height>50</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>11</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>61</xmin><ymin>1</ymin><xmax>120</xmax><ymax>50</ymax></bndbox></object>
</annotation>"""


def sizes_of(spec: str) -> tuple[int, int, int]:
    splits = load_data(spec, OPTIONS)
    assert splits.boxes
    return len(splits.train), len(splits.validation), len(splits.test)


def voc_set(root: Path, **parts: int) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for part, count in parts.items():
        names = [f"{part}{index}" for index in range(count)]
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            (root / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name))
            Image.new("RGB", (100, 50), (9, 99, 200)).save(root / "JPEGImages" / f"{name}.jpg")
    return root


def yolo_set(root: Path, *, names: str = "data.yaml", **parts: int) -> Path:
    for part, count in parts.items():
        (root / "images" / part).mkdir(parents=True)
        (root / "labels" / part).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (100, 50)).save(root / "images" / part / f"{index}.png")
            (root / "labels" / part / f"{index}.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    text = "names: [dog, cat]\n" if names == "data.yaml" else "dog\ncat\n"
    (root / names).write_text(text)
    return root


def test_coco_has_its_parts_by_their_names(tmp_path: Path) -> None:
    parts = {"train2017": DrawnImages(8, seed=1), "val2017": DrawnImages(3, seed=2)}
    write_coco(tmp_path / "set", parts)
    spec = f"coco:{tmp_path / 'set'}"
    check_data(spec)
    assert class_names(spec) == CLASS_NAMES
    # The validation is held out of the training, since val2017 is the test.
    assert sizes_of(spec) == (6, 2, 3)
    splits = load_data(spec, OPTIONS)
    assert isinstance(splits.test, DetectionSplit)
    assert splits.test.data.images == parts["val2017"].annotations.images
    images, _ = next(iter(splits.test.eval_batches(batch_size=3)))
    assert images.shape == (3, 64, 64, 3)
    again = load_data(spec, OPTIONS)
    assert isinstance(again.validation, DetectionSplit)
    assert isinstance(splits.validation, DetectionSplit)
    assert again.validation.data == splits.validation.data


def test_three_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    three = {name: DrawnImages(2 + at, seed=at) for at, name in enumerate(("train", "val", "test"))}
    write_coco(tmp_path / "three", three)
    assert sizes_of(f"coco:{tmp_path / 'three'}") == (2, 3, 4)


def test_a_set_without_a_test_gives_a_part_of_its_training(tmp_path: Path) -> None:
    write_coco(tmp_path / "one", {"train": DrawnImages(25, seed=0)})
    assert sizes_of(f"coco:{tmp_path / 'one'}") == (16, 4, 5)


def test_voc_counts_pixels_from_one_and_passes_over_what_is_difficult(tmp_path: Path) -> None:
    root = voc_set(tmp_path / "voc", train=5, val=2)
    found = read_voc([root / "Annotations" / "train0.xml"])
    assert found.class_names == ("cat", "dog")
    (image,) = found.images
    assert (image.file, image.width, image.height) == ("train0.jpg", 100, 50)
    assert image.objects == (
        ObjectBox(0, 10, 40, 20, label=1, area=800.0),
        ObjectBox(60, 0, 40, 50, label=0, area=2000.0, crowd=True),
    )
    assert sizes_of(f"voc:{root}") == (4, 1, 2)
    assert class_names(f"voc:{root}") == ("cat", "dog")


def test_yolo_has_boxes_polygons_and_images_without_either(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "yolo", train=3, val=2)
    labels = root / "labels" / "train"
    (labels / "1.txt").write_text("0 0.1 0.2 0.5 0.2 0.5 0.8\n\n1 0.5 0.5 0 0.5\n")
    (labels / "2.txt").unlink()
    images = [root / "images" / "train" / f"{index}.png" for index in range(3)]
    found = read_yolo(images, labels, read_names(root))
    boxes = [[(o.left, o.top, o.width, o.height, o.label) for o in i.objects] for i in found.images]
    assert boxes[0] == [pytest.approx((40, 15, 20, 20, 1))]
    assert boxes[1] == [pytest.approx((10, 10, 40, 30, 0))]
    assert (boxes[2], found.dropped) == ([], 1)
    assert sizes_of(f"yolo:{root}") == (2, 1, 2)


def test_roboflows_directories_have_a_part_each(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "yolo", train=4, val=2)
    write_coco(
        tmp_path / "coco", {"train": DrawnImages(4, seed=1), "valid": DrawnImages(2, seed=2)}
    )
    other = tmp_path / "other"
    for old, new in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (other / new).mkdir(parents=True, exist_ok=True)
            (root / kind / old).rename(other / new / kind)
    (root / "data.yaml").rename(other / "data.yaml")
    assert sizes_of(f"yolo:{other}") == (3, 1, 2)
    for part in ("train", "valid"):
        file = tmp_path / "coco" / "annotations" / f"instances_{part}.json"
        file.rename(tmp_path / "coco" / part / "_annotations.coco.json")
    assert sizes_of(f"coco:{tmp_path / 'coco'}") == (3, 1, 2)


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", "obj.names"])
def test_yolo_names_its_classes_in_several_files(tmp_path: Path, names: str) -> None:
    root = yolo_set(tmp_path / "yolo", names=names, train=4)
    assert class_names(f"yolo:{root}") == ("dog", "cat")


def test_yolo_may_number_its_classes(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "yolo", train=4)
    (root / "data.yaml").write_text("names:\n  1: cat\n  0: dog\n")
    assert class_names(f"yolo:{root}") == ("dog", "cat")


def _in_voc(old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / "Annotations" / "train1.xml"
        file.write_text(file.read_text().replace(old, new))

    return damage


def _voc_list_of_nothing(root: Path) -> None:
    (root / "ImageSets" / "Main" / "train.txt").write_text("absent\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_in_voc("</annotation>", ""), r"cannot be read from .*train1\.xml \("),
        (_in_voc("annotation>", "html>"), "this one is a <html>"),
        (_in_voc("<filename>train1.jpg</filename>", ""), "has a filename, and one has none"),
        (_in_voc("size>", "sizes>"), "has the image's size, and this one has none"),
        (_in_voc("<width>100", "<width>none"), "width is a finite number, not 'none'"),
        (_in_voc("<width>100", "<width>0"), "an image has pixels, not 0 x 50"),
        (_in_voc("<name>dog</name>", ""), "<object> has a name, and one has none"),
        (_in_voc("bndbox>", "box>"), "has a bndbox, and one of 'dog' has none"),
        (_in_voc("<xmin>1<", "<xmin>nan<"), "xmin is a finite number, not 'nan'"),
        (_voc_list_of_nothing, r"cannot be read from .*absent\.xml"),
    ],
)
def test_a_damaged_voc_annotation_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    root = voc_set(tmp_path / "voc", train=5, val=2)
    damage(root)
    with pytest.raises(DataError, match=words) as error:
        load_data(f"voc:{root}", OPTIONS)
    assert "\n" not in str(error.value)


def test_a_class_that_only_the_validation_has_is_refused(tmp_path: Path) -> None:
    root = voc_set(tmp_path / "voc", train=5, val=2)
    file = root / "Annotations" / "val0.xml"
    file.write_text(file.read_text().replace("dog", "wolf"))
    with pytest.raises(DataError, match="'wolf', which no image for training has"):
        load_data(f"voc:{root}", OPTIONS)


def _line(text: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "labels" / "train" / "0.txt").write_text(text)

    return damage


def _file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        if content is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_line("1 0.5 0.5 0.2\n"), "line 1 must have 4 numbers of a box"),
        (_line("cat 0.5 0.5 0.2 0.2\n"), "line 1 must be a class and numbers"),
        (_line("1 0.5 0.5 0.2 wide\n"), "line 1 must be a class and numbers"),
        (_line("\n7 0.5 0.5 0.2 0.2\n"), "line 2 is of class 7, and there are 2"),
        (_line("1 0.5 nan 0.2 0.2\n"), "numbers are finite"),
        (_file("labels/train/0.txt", b"\xff\xfe"), r"cannot be read from .*0\.txt"),
        (_file("images/train/0.png", b"no image"), r"0\.png cannot be opened"),
        (_file("data.yaml", b"names: [a"), "is no YAML"),
        (_file("data.yaml", b"nc: 2\n"), "`names` lists the classes"),
        (_file("data.yaml", None), "and none of them is there"),
    ],
)
def test_a_damaged_yolo_set_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    root = yolo_set(tmp_path / "yolo", train=4)
    damage(root)
    with pytest.raises(DataError, match=words) as error:
        load_data(f"yolo:{root}", OPTIONS)
    assert "\n" not in str(error.value)


def test_yolo_without_its_labels_is_one_line(tmp_path: Path) -> None:
    root = yolo_set(tmp_path / "yolo", train=4)
    (root / "labels").rename(root / "other")
    with pytest.raises(DataError, match="labels are beside images"):
        load_data(f"yolo:{root}", OPTIONS)


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "needs the path of a directory"),
        ("absent", "is none"),
        (".", "a directory has .*, and .* has no part for training"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, kind: str, place: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_data(f"{kind}:{tmp_path / place if place else ''}")


def test_drawn_images_are_nowhere() -> None:
    assert class_names("drawn") == CLASS_NAMES
    assert sizes_of("drawn") == (1000, 100, 200)
    with pytest.raises(DataError, match="drawn images have no place"):
        check_data("drawn:/data")
