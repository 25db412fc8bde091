"""A torch network as plain numpy in and out, and as an ONNX file: what other rooms compare with."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tvm_mnas.files import atomic_write
from tvm_mnas.models.detection.detector import Decoded, Detector


def predict(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (N,classes) of `network` in eval mode for `images` (N,C,H,W)."""
    network.eval()
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return logits


def all_outputs(
    network: nn.Module, images: NDArray[np.generic], *, batch_size: int
) -> tuple[NDArray[np.generic], ...]:
    """Return every output of `network` in eval mode for `images`, `batch_size` of them at a time."""
    network.eval()
    parts: list[tuple[NDArray[np.generic], ...]] = []
    with torch.inference_mode():
        for at in range(0, len(images), batch_size):
            parts.append(_arrays(network(torch.from_numpy(images[at : at + batch_size]))))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _arrays(outputs: object) -> tuple[NDArray[np.generic], ...]:
    if isinstance(outputs, Tensor):
        return (outputs.numpy(),)
    assert isinstance(outputs, (tuple, list)), "lowering has refused what is not tensors"
    return tuple(array for output in outputs for array in _arrays(output))


def export_onnx(network: nn.Module, input_shape: tuple[int, int, int, int], path: Path) -> None:
    """Write `network` in eval mode to `path` as ONNX, weights included; input `images`, output `logits`.

    Of a detector the file has what suppression begins with, `boxes` and `scores`: ONNX has no operator of its kind.
    `input_shape` is (N,C,H,W), and fixed in the file. An existing file is replaced in one step.
    """
    written, outputs = network.eval(), ["logits"]
    if isinstance(network, Detector):
        written, outputs = Decoded(network).eval(), ["boxes", "scores"]
    # The exporter reports operators of packages that are not installed, and deprecations of its own.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), atomic_write(path) as part:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                written,
                (torch.zeros(input_shape),),
                part,
                input_names=["images"],
                output_names=outputs,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
