"""Names in lowered code: the same for equal kernels, so that their records fit, and readable for people.

Equal kernels of two networks differ in the names of their blocks (a mean after the ninth layer is `lv9_red`). TVM
takes them for equal, yet a schedule finds its blocks by name: a record from one network would not apply to the
other. Here every block gets a name by its place.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

import tvm
from tvm import relax
from tvm_ffi import StructuralKey
from tvm_ffi.serialization import from_json_graph_str

from tvm_mnas.compiler.core.code import REMEMBERED, code_of, named_like

_ROOT = "root"


def name_blocks(module: Any) -> Any:
    """Return `module` with the blocks of every kernel renamed to `block0`, `block1`, ... by their place."""
    return tvm.IRModule(
        {
            variable: function
            if isinstance(function, relax.Function)
            else named_like(_named(code_of(function)), function)
            for variable, function in module.functions_items()
        },
        attrs=module.attrs,
    )


@lru_cache(maxsize=REMEMBERED)
def _named(code: StructuralKey) -> Any:
    # Through TVM's own serialization, which keeps what is shared shared; a rewrite of the tree would not.
    graph = json.loads(tvm.ir.save_json(code.key))
    nodes = graph["nodes"]
    count = 0
    for node in list(nodes):
        if not node["type"].endswith("SBlock"):
            continue
        if nodes[node["data"]["name_hint"]]["data"] == _ROOT:
            continue
        node["data"]["name_hint"] = len(nodes)
        nodes.append({"type": "ffi.String", "data": f"block{count}"})
        count += 1
    # tvm.ir.load_json would first look for nodes of older versions, in tens of milliseconds.
    return from_json_graph_str(json.dumps(graph))


def describe_kernel(function_name: str, arguments: Any) -> str:
    """Return a name for people: the operations, then the shapes of the first two `arguments` (ArgInfo).

    `fused_conv2d4_add3_relu2` of an image and its weights becomes `conv2d_add_relu 1x56x56x24 1x1x24x72`. Where several
    that have weights are one kernel those of the others follow.
    """
    parts = function_name.removeprefix("fused_").split("_")
    operations = [re.sub(r"^(conv2d|pool2d|\D+)\d*$", r"\1", part) for part in parts]
    told = [[int(extent) for extent in info.as_json()[2]] for info in arguments]
    weighted = operations.count("conv2d") + operations.count("matmul")
    later = [shape for shape in told[2:-1] if math.prod(shape[:-1]) > 1]
    chosen = told[:2] + later[: max(0, weighted - 1)]
    shapes = ["x".join(map(str, shape)) for shape in chosen]
    return " ".join(["_".join(operation for operation in operations if operation), *shapes])
