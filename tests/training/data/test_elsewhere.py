"""Data that is no folder: tables, tar shards, Hugging Face datasets; each gives what the same folder gives."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.training.colours import write_colours
from tvm_mnas.errors import DataError
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import check_data, class_names, load_data
from tvm_mnas.training.data.splits import DataSplits


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    root = tmp_path / "colours"
    write_colours(root)
    return root


def load(spec: str) -> DataSplits:
    return load_data(spec, LoadOptions(input_size=16, workers=0))


def content(splits: DataSplits) -> Counter[tuple[bytes, int]]:
    """Return every image of the test split with its label."""
    return Counter(
        (image.numpy().tobytes(), int(label))
        for images, labels in splits.test.eval_batches(batch_size=4)
        for image, label in zip(images, labels, strict=True)
    )


def write_table(root: Path, *, split: bool = True) -> str:
    lines = ["path,label,split" if split else "path,label"]
    for part, name in (("train", "train"), ("val", "validation")):
        for path in sorted((root / part).rglob("*.*")):
            line = f"{path.relative_to(root)},{path.parent.name}"
            lines.append(f"{line},{name}" if split else line)
    (root / "list.csv").write_text("\n".join(lines))
    return f"csv:{root / 'list.csv'}"


def write_shards(root: Path, *, style: str = "cls", text: bool = True) -> str:
    names = sorted(path.name for path in (root / "train").iterdir())
    (root / "shards").mkdir()
    for part in ("train", "val"):
        files = sorted((root / part).rglob("*.*"))
        for number in range(2):
            shard = root / "shards" / f"colours-{part}-{number:04d}.tar"
            with tarfile.open(shard, "w") as archive:
                for index, path in enumerate(files[number::2]):
                    label = path.parent.name if text else str(names.index(path.parent.name))
                    held = label if style == "cls" else json.dumps({"label": label})
                    for ending, data in ((path.suffix, path.read_bytes()), (f".{style}", held.encode())):  # fmt: skip
                        entry = tarfile.TarInfo(f"{index:06d}{ending}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))
    return f"shards:{root / 'shards'}"


def write_hub(root: Path) -> str:
    from datasets import load_dataset

    def files(part: str) -> list[str]:
        return [str(path) for path in sorted((root / part).rglob("*.*"))]

    held = load_dataset(
        "imagefolder",
        data_files={"train": files("train"), "test": files("val")},
        cache_dir=str(root / "hub-cache"),
        drop_labels=False,
    )
    held.save_to_disk(str(root / "hub"))
    return f"hub:{root / 'hub'}"


@pytest.mark.parametrize("write", [write_table, write_shards, write_hub])
def test_images_and_labels_are_those_of_the_folder(colours: Path, write) -> None:  # type: ignore[no-untyped-def]
    folder, other = load(f"imagefolder:{colours}"), load(write(colours))
    assert content(other) == content(folder)
    assert (len(other.train), len(other.validation), len(other.test)) == (16, 4, 6)
    assert other.classes == 2
    images, labels = next(other.train.train_batches(batch_size=6, steps=1, seed=0))
    colours_seen = images.float().mean(dim=(1, 2))
    redder = colours_seen[:, 0] > colours_seen[:, 2]
    assert redder.long().tolist() == labels.tolist()
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("write", [write_table, write_shards, write_hub])
def test_the_classes_have_the_names_of_the_folder(colours: Path, write) -> None:  # type: ignore[no-untyped-def]
    spec = write(colours)
    assert check_data(spec) == ()
    assert class_names(spec) == ("blue", "red")


@pytest.mark.parametrize("style", ["cls", "json"])
def test_numbered_classes_of_shards_may_be_named_in_a_list(colours: Path, style: str) -> None:
    spec = write_shards(colours, style=style, text=False)
    assert class_names(spec) == ("0", "1")
    (colours / "shards" / "classes.txt").write_text("blau\nrot\n")
    assert class_names(spec) == ("blau", "rot")
    assert content(load(spec)) == content(load(f"imagefolder:{colours}"))


def test_a_table_without_splits_holds_a_test_out(colours: Path) -> None:
    spec = write_table(colours, split=False)
    (note,) = check_data(spec)
    assert "no column `split`" in note
    splits = load(spec)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 6)


def test_workers_read_shards_as_one_process_does(colours: Path) -> None:
    spec = write_shards(colours)
    alone, shared = (
        load_data(spec, LoadOptions(input_size=16, workers=workers)).train for workers in (0, 2)
    )
    for (images, labels), (same, same_labels) in zip(
        alone.train_batches(batch_size=5, steps=3, seed=1),
        shared.train_batches(batch_size=5, steps=3, seed=1),
        strict=True,
    ):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)


def _no_table(root: Path) -> str:
    return f"csv:{root / 'gone.csv'}"


def _one_column(root: Path) -> str:
    (root / "x.csv").write_text("a.jpg\nb.jpg\n")
    return f"csv:{root / 'x.csv'}"


def _lost_file(root: Path) -> str:
    (root / "x.csv").write_text("file,label\ngone.jpg,cat\n")
    return f"csv:{root / 'x.csv'}"


def _odd_split(root: Path) -> str:
    (root / "x.csv").write_text("file,label,split\ntrain/red/0.png,cat,holdout\n")
    return f"csv:{root / 'x.csv'}"


def _no_shards(root: Path) -> str:
    return f"shards:{root / 'train'}"


def _torn_shard(root: Path) -> str:
    spec = write_shards(root)
    shard = root / "shards" / "colours-train-0000.tar"
    shard.write_bytes(b"\1" * 600 + shard.read_bytes()[600:])
    return spec


def _shard_without_class(root: Path) -> str:
    write_shards(root)
    with tarfile.open(root / "lone.tar", "w") as archive:
        archive.add(root / "train" / "red" / "0.png", "000000.png")
    return f"shards:{root / 'lone.tar'}"


def _no_hub(root: Path) -> str:
    (root / "empty").mkdir()
    return f"hub:{root / 'empty'}"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_no_table, "gone.csv' is no file"),
        (_one_column, "the first line is 'a.jpg'"),
        (_lost_file, "there is no"),
        (_odd_split, "is 'holdout'"),
        (_no_shards, "has none; check the path"),
        (_torn_shard, "cannot be read as a shard"),
        (_shard_without_class, "000000 has none"),
        (_no_hub, "cannot be loaded"),
    ],
)
def test_what_cannot_be_read_is_one_line(colours: Path, write, words: str) -> None:  # type: ignore[no-untyped-def]
    spec = write(colours)

    def read() -> None:
        check_data(spec)
        load(spec)

    with pytest.raises(DataError) as caught:
        read()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tvm-mnas\[hub\]'"):
        check_data("hub:cifar10")
