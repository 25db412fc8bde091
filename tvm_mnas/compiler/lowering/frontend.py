"""From torch to Relax: a short way for networks of well-known modules, torch.export for all others.

torch.export traces every operator with tensors, which takes longer than everything that follows. A network whose
graph calls nothing but modules that TVM's translator of torch.fx graphs gets right does not need it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from tvm import relax

from tvm_mnas.compiler.lowering.suppression import KERNEL, suppression_kernel
from tvm_mnas.errors import raise_if_foreign
from tvm_mnas.models.detection.suppression import ROW, SuppressionRule

_TRANSLATED = (
    nn.Conv2d,
    nn.Linear,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)
"""Not nn.AvgPool2d: the translator passes over its padding without a word."""
_FUNCTIONS = (operator.add, operator.mul)


def import_network(
    network: nn.Module, input_shape: tuple[int, int, int, int], input_dtype: str = "float32"
) -> Any:
    """Return `network`, in eval mode, as a Relax module; `input_shape` is (N,C,H,W).

    Raises what torch and TVM raise for a network that they cannot express.
    """
    from tvm.relax.frontend.torch import from_fx

    if isinstance(network, fx.GraphModule) and is_translated(network):
        return from_fx(
            network,
            [(input_shape, input_dtype)],
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
        )
    return import_by_export(network, input_shape, input_dtype)


def import_by_export(
    network: nn.Module, input_shape: tuple[int, int, int, int], input_dtype: str = "float32"
) -> Any:
    """Return what `import_network` returns, by torch.export: slower, and for any network."""
    program = torch.export.export(
        network, (torch.zeros(input_shape, dtype=getattr(torch, input_dtype)),)
    )
    try:
        # Half a second less than by torch's decomposition into simpler operators, which few networks need.
        return _translated(program)
    except Exception as error:
        raise_if_foreign(error)
        return _translated(program.run_decompositions())


def _translated(program: torch.export.ExportedProgram) -> Any:
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    importer = ExportedProgramImporter()
    try:
        return importer.from_exported_program(
            program,
            keep_params_as_input=False,
            unwrap_unit_return_tuple=True,
            no_bind_return_tuple=False,
            custom_convert_map={"narrow.default": _narrow, "suppress.default": _suppress},
        )
    except Exception:
        # A builder that dies with an open block writes a warning to stderr, where a success leaves nothing.
        if hasattr(importer, "block_builder"):
            importer.block_builder._end_block()
        raise


def _narrow(node: fx.Node, importer: Any) -> Any:
    """Return a narrowed tensor; TVM's own translation takes the length for the end."""
    arguments: tuple[Any, ...] = node.args
    source, axis, start, length = arguments
    first = start + source.meta["val"].shape[axis] if start < 0 else start
    return importer.block_builder.emit(
        relax.op.strided_slice(importer.env[source], [axis], [first], [first + length])
    )


def _suppress(node: fx.Node, importer: Any) -> Any:
    """Return the detections that stay: a call of the kernel that is written for it."""
    arguments: tuple[Any, ...] = node.args
    boxes, scores = (importer.env[one] for one in arguments[:2])
    score_threshold, overlap_threshold, per_class, total, candidates, logits = arguments[2:]
    rule = SuppressionRule(
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        per_class=per_class,
        total=total,
        candidates=candidates,
    )
    builder = importer.block_builder
    images, anchors, classes = (int(extent) for extent in scores.ty.shape)
    kernel = suppression_kernel(images, anchors, classes, rule, logits=logits)
    kernel = builder.add_func(kernel, KERNEL)
    detections = relax.TensorType((images, total, ROW), "float32")
    return builder.emit(relax.call_tir(kernel, (boxes, scores), detections))


def is_translated(network: fx.GraphModule) -> bool:
    """Whether `network` calls only what `import_network` can translate without torch.export."""
    return all(_is_known(network, node) for node in network.graph.nodes)


def _is_known(network: fx.GraphModule, node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    if node.op == "call_function":
        # A number among the arguments would have to become a constant.
        return node.target in _FUNCTIONS and all(isinstance(one, fx.Node) for one in node.args)
    if node.op != "call_module" or node.kwargs:
        return False
    module = network.get_submodule(str(node.target))
    if isinstance(module, nn.Conv2d):
        # The translator takes every padding for zeros, and knows none that is named.
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.MaxPool2d):
        return not module.return_indices
    return type(module) in _TRANSLATED
