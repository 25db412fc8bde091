"""Top-1 accuracies of checkpoints that somebody trained, for the rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_mnas.errors import ConfigError, DataError
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.workflows.model_ref import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointAccuracy:
    """`top1`, a share in 0..1, of the weights in `file` on the `samples` test images of `data`."""

    file: str
    data: str
    top1: float
    samples: int

    @property
    def top1_percent(self) -> float:
        """Top-1 in percent."""
        return 100.0 * self.top1

    @property
    def standard_error_percent(self) -> float:
        """Standard error of that from the number of images alone."""
        return 100.0 * float((self.top1 * (1.0 - self.top1) / self.samples) ** 0.5)

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1_percent:.2f} +- {self.standard_error_percent:.2f} %, measured of {self.file} on the "
            f"{self.samples} test images of {self.data}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            "file": self.file,
            "data": self.data,
            "samples": self.samples,
            "top1_percent": self.top1_percent,
            "standard_error_percent": self.standard_error_percent,
        }


def parse_checkpoints(
    texts: Sequence[str], keys: Sequence[str], data: str | None
) -> dict[str, Path]:
    """Return the file of each network of `keys` for which `texts` has a `KEY=FILE`.

    Raises:
        ConfigError: if a text has another form, names another network, or no file; or if `data` is None.
        DataError: if `data` names nothing that is there.
    """
    from tvm_mnas.training.data.sources import check_data

    files: dict[str, Path] = {}
    for text in texts:
        key, equals, name = text.partition("=")
        if not equals or key not in keys:
            raise ConfigError(
                f"--checkpoint must be KEY=FILE with the key of a row, not {text!r}; the rows are {', '.join(keys)}"
            )
        if not Path(name).is_file():
            raise ConfigError(f"cannot find {name!r} for --checkpoint {key}; check the path")
        files[key] = Path(name)
    if files:
        if data is None:
            raise ConfigError(
                "a checkpoint's accuracy needs images; type --data imagenet:PATH with PATH/train and PATH/val"
            )
        check_data(data)
    return files


def measure_checkpoints(
    models: Sequence[ModelRef], files: Mapping[str, Path], data: str, *, observer: Observer
) -> dict[str, CheckpointAccuracy]:
    """Return the accuracy of each of `models` that has a file, by its name.

    Raises:
        RunError: if a file holds no weights, or those of another network.
        DataError: if the data is missing or damaged, or has not as many classes as a network tells apart.
        TrainingError: if outputs are not finite numbers.
    """
    from tvm_mnas.models.inference import predict
    from tvm_mnas.training.data.images import LoadOptions
    from tvm_mnas.training.data.sources import load_data
    from tvm_mnas.training.tasks import Classification
    from tvm_mnas.training.weights import load_checkpoint

    accuracies: dict[str, CheckpointAccuracy] = {}
    for model in models:
        if model.name not in files:
            continue
        observer.stage("checkpoints", len(accuracies), len(files))
        network = model.build(seed=0)
        if network is None:
            raise ConfigError(f"{model.name}: an ONNX file has its weights; leave --checkpoint out")
        load_checkpoint(network, files[model.name])
        splits = load_data(data, LoadOptions(input_size=model.input_shape[2]))
        classes = predict(network, np.zeros(model.input_shape, np.float32)).shape[1]
        if splits.classes != classes:
            raise DataError(
                f"a network and its data have the same classes: {model.name} has {classes} of them, {data} "
                f"{splits.classes}; give the data that it was trained with"
            )
        score = Classification().evaluate(network, splits.test, splits.normalization)
        accuracies[model.name] = CheckpointAccuracy(
            file=str(files[model.name]),
            data=data,
            top1=score.value,
            samples=score.samples,
        )
    return accuracies
