"""A torch network as plain numpy in and out, and as an ONNX file: what other rooms compare with."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tvm_mnas.errors import LoweringError, raise_if_interrupted
from tvm_mnas.files import atomic_write


def predict(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (N,classes) of `network` in eval mode for `images` (N,C,H,W)."""
    network.eval()
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return logits


def predict_onnx(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first output of the network in the ONNX file `path` for `images` (N,C,H,W), one image at a time.

    Computed by ONNX's reference implementation, which is slow and shares no code with any compiler.

    Raises:
        LoweringError: if it does not know an operator of the network.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        network = ReferenceEvaluator(str(path))
        (name,) = network.input_names
        outputs = [network.run(None, {name: image[np.newaxis]})[0] for image in images]
    except Exception as error:
        raise_if_interrupted(error)
        # It raises whatever its operators do; for the caller there is nothing to compare with.
        raise LoweringError(
            f"cannot compute {path} with ONNX's reference: {type(error).__name__}: {error}"
        ) from error
    return np.concatenate(outputs).astype(np.float32)


def export_onnx(network: nn.Module, input_shape: tuple[int, int, int, int], path: Path) -> None:
    """Write `network` in eval mode to `path` as ONNX, weights included; input `images`, output `logits`.

    `input_shape` is (N,C,H,W), and fixed in the file. An existing file is replaced in one step.
    """
    # The exporter reports operators of packages that are not installed, and deprecations of its own.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), atomic_write(path) as part:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (torch.zeros(input_shape),),
                part,
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
