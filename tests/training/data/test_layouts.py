"""Image folders as people have them: clutter beside images, flat and unlabelled parts, labels in files of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.listing import is_clutter
from tvm_mnas.training.data.sources import check_data, class_names, load_data
from tvm_mnas.training.data.splits import DataSplits

CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((24, 20))


def write_classes(
    root: Path, names: tuple[str, ...] = CLASSES, *, each: int = 8, suffix: str = ".jpg"
) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(each):
            picture(100 * label + index).save(root / name / f"{index}{suffix}")
    return root


def load(root: Path, *, max_bad_images: int = 0) -> DataSplits:
    options = LoadOptions(input_size=16, workers=0, max_bad_images=max_bad_images)
    return load_data(f"imagenet:{root}", options)


def sizes(splits: DataSplits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


@pytest.mark.parametrize(
    "clutter",
    [
        *(".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"),
        *("System Volume Information", "#recycle", "RECYCLER", ".git", "@Recycle"),
    ],
)
def test_directories_of_systems_are_no_classes_and_hold_no_images(
    tmp_path: Path, clutter: str
) -> None:
    train = write_classes(tmp_path / "train")
    for place in (train, train / CLASSES[0]):
        (place / clutter).mkdir()
        shutil.copy(train / CLASSES[1] / "0.jpg", place / clutter / "0.jpg")
    shutil.copytree(train, tmp_path / "val")
    assert class_names(f"imagenet:{tmp_path}") == CLASSES
    splits = load(tmp_path)
    assert splits.classes == 3
    assert sum(sizes(splits)) == 24 + 24


@pytest.mark.parametrize(
    "name", [".DS_Store", "Thumbs.db", "desktop.ini", "._0.jpg", ".hidden.png", "ehthumbs.db"]
)
def test_files_of_systems_are_no_images(tmp_path: Path, name: str) -> None:
    train = write_classes(tmp_path / "train")
    for place in (train, train / CLASSES[0]):
        (place / name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    shutil.copytree(train, tmp_path / "val")
    assert is_clutter(name)
    assert sum(sizes(load(tmp_path))) == 24 + 24


def test_the_labelled_part_is_the_test_and_an_unlabelled_one_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", each=3, suffix=".JPEG")
    (tmp_path / "test").mkdir()
    picture(1).save(tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG")
    (note,) = check_data(f"imagenet:{tmp_path}")
    assert f"{tmp_path / 'test'}: its images have no labels" in note
    splits = load(tmp_path)
    assert sizes(splits) == (18, 6, 9)
    assert all("/val/" in name for name in splits.test.names())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test", "Val", "Testing"])
def test_a_labelled_part_is_found_by_each_of_its_names(tmp_path: Path, name: str) -> None:
    write_classes(tmp_path / "Train" if name == "Val" else tmp_path / "train")
    write_classes(tmp_path / name, each=2)
    assert check_data(f"imagenet:{tmp_path}") == ()
    assert sizes(load(tmp_path)) == (18, 6, 6)


def test_two_labelled_parts_are_the_validation_and_the_test(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", each=2)
    write_classes(tmp_path / "test", each=3)
    assert check_data(f"imagenet:{tmp_path}") == ()
    assert sizes(load(tmp_path)) == (24, 6, 9)


def test_a_folder_without_a_test_holds_one_out_which_is_the_same_for_every_seed(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path / "train", each=10)
    (note,) = check_data(f"imagenet:{tmp_path}")
    assert "a fifth of train/ is held out for the test" in note
    spec = f"imagenet:{tmp_path}"
    first, other = (load_data(spec, LoadOptions(input_size=16, seed=seed)) for seed in (0, 1))
    assert sizes(first) == (18, 6, 6)
    names = [{part: set(getattr(each, part).names()) for part in ("train", "validation", "test")}
             for each in (first, other)]  # fmt: skip
    assert names[0]["test"] == names[1]["test"]
    assert names[0]["validation"] != names[1]["validation"]
    assert not names[0]["test"] & (names[0]["train"] | names[0]["validation"])


def write_flat(root: Path) -> list[int]:
    """Write train/ and an unlabelled val/, and return the labels of its images in order."""
    write_classes(root / "train")
    (root / "val").mkdir()
    labels = [2, 0, 1, 1, 0, 2]
    for index in range(len(labels)):
        picture(700 + index).save(root / "val" / f"ILSVRC2012_val_{index + 1:08d}.JPEG")
    return labels


def kaggle(root: Path, labels: list[int]) -> None:
    rows = [
        f"ILSVRC2012_val_{index + 1:08d},{CLASSES[label]} 1 2 3 4 {CLASSES[label]} 5 6 7 8"
        for index, label in enumerate(labels)
    ]
    text = "\n".join(["ImageId,PredictionString", *reversed(rows)])
    (root / "LOC_val_solution.csv").write_text(text + "\n")


def plain_csv(root: Path, labels: list[int]) -> None:
    rows = [f"val/ILSVRC2012_val_{i + 1:08d}.JPEG;{CLASSES[x]}" for i, x in enumerate(labels)]
    (root / "labels.csv").write_text("\ufeff" + "\r\n".join(rows) + "\r\n", encoding="utf-8")


def headed_csv(root: Path, labels: list[int]) -> None:
    rows = [f"{CLASSES[x]},ILSVRC2012_val_{i + 1:08d}.JPEG" for i, x in enumerate(labels)]
    (root / "val.csv").write_text("\n".join(["breed,image", *rows]))


def tiny_imagenet(root: Path, labels: list[int]) -> None:
    (root / "val" / "images").mkdir()
    for path in list((root / "val").glob("*.JPEG")):
        path.rename(root / "val" / "images" / path.name)
    rows = [f"ILSVRC2012_val_{i + 1:08d}.JPEG\t{CLASSES[x]}\t0\t0\t9\t9" for i, x in enumerate(labels)]  # fmt: skip
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows))


ORDER = {3: CLASSES[0], 1: CLASSES[1], 2: CLASSES[2]}


def devkit(root: Path, labels: list[int]) -> None:
    numbers = {name: number for number, name in ORDER.items()}
    text = "".join(f"{numbers[CLASSES[label]]}\n" for label in labels)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    lines = "\n".join(f"{name} {number} a_fish" for number, name in ORDER.items())
    (root / "map_clsloc.txt").write_text(lines)


def devkit_matlab(root: Path, labels: list[int]) -> None:
    from scipy.io import savemat

    devkit(root, labels)
    (root / "map_clsloc.txt").unlink()
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O")]
    synsets = np.array([(n, name, "a fish") for n, name in sorted(ORDER.items())], dtype=kinds)
    (root / "data").mkdir()
    savemat(root / "data" / "meta.mat", {"synsets": synsets.reshape(-1, 1)})


@pytest.mark.parametrize(
    "write", [kaggle, plain_csv, headed_csv, tiny_imagenet, devkit, devkit_matlab]
)
def test_a_flat_validation_has_the_labels_of_the_file_beside_it(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    labels = write_flat(tmp_path)
    write(tmp_path, labels)
    splits = load(tmp_path)
    found = [
        label for _, batch in splits.test.eval_batches(batch_size=4) for label in batch.tolist()
    ]
    assert found == labels
    assert sizes(splits)[:2] == (18, 6)


def _without_label(root: Path, labels: list[int]) -> None:
    kaggle(root, labels[:-1])


def _of_no_class(root: Path, labels: list[int]) -> None:
    plain_csv(root, labels)
    table = root / "labels.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(CLASSES[1], "n9"), encoding="utf-8")


def _devkit_without_order(root: Path, labels: list[int]) -> None:
    devkit(root, labels)
    (root / "map_clsloc.txt").unlink()


def _devkit_too_short(root: Path, labels: list[int]) -> None:
    devkit(root, labels[1:])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda root, labels: None, "copy LOC_val_solution.csv (Kaggle) or ILSVRC2012_validation"),
        (_without_label, "has no label of ILSVRC2012_val_00000006.JPEG"),
        (_of_no_class, "is none of the classes (n01440764, n01443537, n01484850), but 'n9'"),
        (_devkit_without_order, "neither map_clsloc.txt nor meta.mat"),
        (_devkit_too_short, "has 5 labels, but there are 6 images"),
    ],
)
def test_a_flat_validation_without_usable_labels_is_one_line(tmp_path: Path, write, words) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, write_flat(tmp_path))
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_are_sorted_by_code_point_and_an_empty_one_is_named(tmp_path: Path) -> None:
    odd = ("2", "10", "1", "b c", "日本", "Ärzte")
    write_classes(tmp_path / "train", odd, each=3, suffix=".JPEG")
    write_classes(tmp_path / "val", odd, each=1, suffix=".JPEG")
    (tmp_path / "train" / "empty").mkdir()
    assert class_names(f"imagenet:{tmp_path}") == ("1", "10", "2", "b c", "Ärzte", "日本")
    (note,) = check_data(f"imagenet:{tmp_path}")
    assert "no images in empty, which is then no class" in note
    assert load(tmp_path).classes == 6


def test_images_below_a_class_directory_are_of_that_class(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    for name in CLASSES:
        (tmp_path / "train" / name / "images").mkdir()
        picture(5).save(tmp_path / "train" / name / "images" / "deep.TIFF")
    write_classes(tmp_path / "val", each=1)
    assert sum(sizes(load(tmp_path))) == 27 + 3


def write_damaged(root: Path) -> None:
    write_classes(root / "val")
    train = write_classes(root / "train")
    (train / CLASSES[0] / "empty.jpg").write_bytes(b"")
    (train / CLASSES[1] / "text.jpg").write_text("no image\n")
    (train / CLASSES[1] / "folder.jpg").mkdir()


def test_damaged_images_end_a_training_unless_as_many_are_allowed(tmp_path: Path) -> None:
    write_damaged(tmp_path)

    def labels(allowed: int) -> list[int]:
        splits = load(tmp_path, max_bad_images=allowed)
        found = []
        for split in (splits.train, splits.validation):
            for images, batch in split.eval_batches(batch_size=5):
                assert len(images) == len(batch)
                found.extend(batch.tolist())
            for images, batch in split.train_batches(batch_size=6, steps=9, seed=1):
                assert images.shape == (6, 16, 16, 3)
                assert len(batch) == 6
        return found

    assert sorted(labels(3)) == [0] * 8 + [1] * 8 + [2] * 8
    with pytest.raises(DataError, match=r"cannot be decoded .*--max-bad-images") as caught:
        labels(0)
    assert "\n" not in str(caught.value)


def test_an_image_that_stands_in_for_a_damaged_one_brings_its_own_label(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for channel, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            colour = [0, 0, 0]
            colour[channel] = 255
            for index in range(10):
                path = tmp_path / part / name / f"{index}.png"
                Image.new("RGB", (24, 20), tuple(colour)).save(path)
                if part == "train" and index % 4 == 3:
                    path.write_bytes(b"")
    splits = load(tmp_path, max_bad_images=6)
    seen = 0
    for images, labels in splits.train.train_batches(batch_size=8, steps=20, seed=0):
        assert images.float().mean(dim=(1, 2)).argmax(dim=1).tolist() == labels.tolist()
        seen += len(labels)
    assert seen == 160


def test_the_manifest_names_the_classes_of_the_training(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train")
    (train / ".ipynb_checkpoints").mkdir()
    (train / "aaa_empty").mkdir()
    shutil.copytree(train, tmp_path / "val")
    spec = f"imagenet:{tmp_path}"
    assert json.dumps(class_names(spec)) == json.dumps(CLASSES)
    assert load_data(spec, LoadOptions(input_size=16)).classes == len(class_names(spec))
