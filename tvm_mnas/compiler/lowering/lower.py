"""A network as TVM sees it: torch -> Relax -> the kernels that tuning works on.

The layout is NHWC with batch norm folded, and weights are left free to be packed as each kernel's schedule
likes. Input and output stay as torch has them: images (N,C,H,W) in, logits (N,classes) out.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import tvm
from torch import nn
from tvm import relax
from tvm_ffi import register_error

from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.reasons import reason_of
from tvm_mnas.compiler.core.target import core_count, core_model, load_target
from tvm_mnas.compiler.lowering.bfloat import to_bfloat
from tvm_mnas.compiler.lowering.constants import fold_layouts
from tvm_mnas.compiler.lowering.frontend import import_network
from tvm_mnas.compiler.lowering.half import to_half
from tvm_mnas.compiler.lowering.joining import join_kernels
from tvm_mnas.compiler.lowering.kernels import kernels_of
from tvm_mnas.compiler.lowering.layouts import sink_transposes, split_activations
from tvm_mnas.compiler.lowering.legalize import legalize
from tvm_mnas.compiler.lowering.naming import name_blocks
from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.errors import Interruption, LoweringError, raise_if_foreign
from tvm_mnas.models.exchange.exported import program_to_modules
from tvm_mnas.models.folding import fold_batch_norm
from tvm_mnas.models.padding import pad_channels
from tvm_mnas.models.transposed import replace_transposed

# What TVM doesn't know comes back from its callbacks as RuntimeError: an interrupted lowering would be one that failed.
for _interruption in (KeyboardInterrupt, Interruption):
    register_error(_interruption.__name__, _interruption)


def lower_network(
    network: nn.Module,
    input_shape: tuple[int, int, int, int],
    target: str,
    *,
    input_dtype: str = "float32",
    precision: Precision = FLOAT32,
) -> LoweredNetwork:
    """Return `network` in eval mode lowered for `target`; `input_shape` is (N,C,H,W), or (N,H,W,C) if it takes that.

    It computes in `precision`, and takes and returns float32 whatever that is.

    Raises:
        LoweringError: if torch cannot export it or TVM cannot express it.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            lanes = core_model(target, dtype=precision.accumulator).width
            plain = pad_channels(_without_norms(network, input_shape, input_dtype), lanes)
            module = import_network(plain, input_shape, input_dtype)
        module = _lowered(module, target, precision)
        return LoweredNetwork(
            input_shape, target, kernels_of(module), module, input_dtype, precision
        )
    except LoweringError:
        raise
    except Exception as error:
        raise_if_foreign(error)
        # torch and TVM raise what they like here; whatever it is, this network cannot be lowered.
        raise LoweringError(f"TVM cannot express this network: {reason_of(error)}") from error


def _without_norms(
    network: nn.Module, input_shape: tuple[int, int, int, int], input_dtype: str
) -> nn.Module:
    """Return a copy of `network` in eval mode without batch norms and transposed convolutions."""
    try:
        folded = fold_batch_norm(network)
    except Exception as error:
        raise_if_foreign(error)
        # What torch.fx cannot trace, because it looks at a shape for instance, torch.export may.
        example = torch.zeros(input_shape, dtype=getattr(torch, input_dtype))
        program = torch.export.export(network.eval(), (example,))
        folded = fold_batch_norm(program_to_modules(program, "the network"))
    return replace_transposed(folded).eval()


def _lowered(module: Any, target: str, precision: Precision = FLOAT32) -> Any:
    transform = relax.transform
    tvm_target = load_target(target)
    module = split_activations(module)
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
        if precision.dtype == "float16":
            # Not in torch: TVM's way from there makes every convolution's output float32.
            module = to_half(module, precision)
        elif precision.dtype == "bfloat16":
            module = to_bfloat(module)
        module = legalize(module, precision=precision)
        module = tvm.transform.Sequential(
            [
                transform.AnnotateTIROpPattern(),
                transform.FoldConstant(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(),
            ]
        )(module)
        if core_count(target) == 1:
            module = join_kernels(module, core_model(target, dtype=precision.accumulator))
        module = tvm.transform.Sequential(
            [transform.DeadCodeElimination(), transform.AttachAttrLayoutFreeBuffers()]
        )(module)
        return name_blocks(module)
