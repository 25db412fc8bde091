"""A network as TVM sees it: torch or ONNX -> Relax -> the kernels that tuning works on.

The layout is NHWC with batch norm folded, and weights are left free to be packed as each kernel's schedule
likes. Input and output stay as torch has them: images (N,C,H,W) in, logits (N,classes) out.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
from torch import nn
from tvm import relax
from tvm_ffi import register_error

from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import EQUALITY, key_of, load_meta_schedule
from tvm_mnas.compiler.core.target import load_target, vector_unit
from tvm_mnas.compiler.lowering.constants import fold_layouts
from tvm_mnas.compiler.lowering.frontend import import_network
from tvm_mnas.compiler.lowering.layouts import sink_transposes, split_leaky_relu
from tvm_mnas.compiler.lowering.legalize import legalize
from tvm_mnas.compiler.lowering.naming import describe_kernel, name_blocks
from tvm_mnas.errors import Interruption, LoweringError, raise_if_interrupted
from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.padding import pad_channels

# What TVM doesn't know comes back from its callbacks as RuntimeError: an interrupted lowering would be one that failed.
for _interruption in (KeyboardInterrupt, Interruption):
    register_error(_interruption.__name__, _interruption)


def lower_network(
    network: nn.Module, input_shape: tuple[int, int, int, int], target: str
) -> LoweredNetwork:
    """Return `network` in eval mode lowered for `target`; `input_shape` is (N,C,H,W).

    Raises:
        LoweringError: if torch cannot export it or TVM cannot express it.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            lanes = vector_unit(load_target(target)).lanes
            plain = pad_channels(fold_batch_norm(network).eval(), lanes)
            module = import_network(plain, input_shape)
        return _lower(module, input_shape, target)
    except Exception as error:
        raise_if_interrupted(error)
        # torch and TVM raise what they like here; whatever it is, this network cannot be lowered.
        raise LoweringError(f"TVM cannot express this network: {_first(error)}") from error


def lower_onnx(path: Path, target: str) -> LoweredNetwork:
    """Return the network in the ONNX file `path` lowered for `target`; it has one input of fixed shape.

    Raises:
        LoweringError: if the file cannot be read or TVM cannot express it.
    """
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    try:
        model = onnx.load(str(path))
        (source,) = model.graph.input
        shape = tuple(dimension.dim_value for dimension in source.type.tensor_type.shape.dim)
        if len(shape) != 4 or not all(shape):
            raise LoweringError(f"{path}: an input must have a fixed shape N,C,H,W, not {shape}")
        module = from_onnx(model, keep_params_in_input=False)
        return _lower(module, (shape[0], shape[1], shape[2], shape[3]), target)
    except LoweringError:
        raise
    except Exception as error:
        raise_if_interrupted(error)
        raise LoweringError(f"TVM cannot express {path}: {_first(error)}") from error


def _lower(module: Any, input_shape: tuple[int, int, int, int], target: str) -> LoweredNetwork:
    transform = relax.transform
    tvm_target = load_target(target)
    module = split_leaky_relu(module)
    with tvm_target:
        module = tvm.transform.Sequential(
            [
                transform.DecomposeOpsForInference(),
                transform.CanonicalizeBindings(),
                transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}),
                transform.Normalize(),
            ]
        )(module)
        module = sink_transposes(fold_layouts(module))
        module = legalize(module)
        module = tvm.transform.Sequential(
            [
                transform.AnnotateTIROpPattern(),
                transform.FoldConstant(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(),
                transform.AttachAttrLayoutFreeBuffers(),
            ]
        )(module)
        module = name_blocks(module)
    return LoweredNetwork(input_shape, target, _kernels_of(module, tvm_target), module)


def key_of_function(function: Any) -> str:
    """Return the `Kernel.key` of a function in a lowered network's module, not yet scheduled."""
    database = load_meta_schedule().database
    normalize = tvm.get_global_func("tvm.s_tir.meta_schedule.normalize_mod")
    return key_of(str(database.Workload(normalize(function)).as_json()[0]))


def _kernels_of(module: Any, target: Any) -> tuple[Kernel, ...]:
    from tvm.s_tir.analysis import estimate_tir_flops

    meta_schedule = load_meta_schedule()
    tasks = meta_schedule.relax_integration.extract_tasks(
        module, target, {}, module_equality=EQUALITY
    )
    kernels: list[Kernel] = []
    for task in tasks:
        code = task.dispatched[0]
        entry = meta_schedule.database.Workload(code).as_json()
        arguments = meta_schedule.arg_info.ArgInfo.from_entry_func(code)
        workload = json.dumps([str(entry[0]), str(entry[1])])
        kernels.append(
            Kernel(
                name=describe_kernel(str(task.task_name), arguments),
                key=key_of(str(entry[0])),
                calls=int(task.weight),
                flops=int(estimate_tir_flops(code)),
                moved_bytes=sum(_size_bytes(argument) for argument in arguments),
                workload=workload,
            )
        )
    return tuple(sorted(kernels, key=lambda kernel: kernel.key))


def _size_bytes(argument: Any) -> int:
    """Return the size of an argument (`ArgInfo`) of a kernel."""
    _, dtype, shape = argument.as_json()
    return np.dtype(str(dtype)).itemsize * math.prod(int(extent) for extent in shape)


def _first(error: Exception) -> str:
    """Return the kind of `error` and the last line of its text, where TVM puts the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300] if lines else 'no message'}"
