"""Where the images between the kernels lie: in as little memory as it gets, so that less of it passes the caches.

TVM gives each image, as they come, the first storage that is free and large enough, and may lay a small one into the
largest. Then the next large one takes new memory, which is in no cache. Here the largest choose first, where that
takes less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline

from tvm_mnas.compiler.core.calls import operator_of

_STORAGE = "relax.memory.alloc_storage"
_TENSOR = "relax.memory.alloc_tensor"


@dataclass(frozen=True, slots=True)
class Span:
    """An image of `size_bytes`, needed from the statement `first`, which writes it, to `last`, which reads it."""

    first: int
    last: int
    size_bytes: int

    def overlaps(self, other: Span) -> bool:
        """Whether both are needed at some statement."""
        return self.first <= other.last and other.first <= self.last


def assign(spans: Sequence[Span]) -> list[int]:
    """Return for each of `spans` the index of the one whose storage it takes, its own if that is a new one.

    None that live at the same time share a storage. The largest come first, and each takes the smallest that is free
    for as long as it lives (greedy by size; Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", 2020, section 4).
    """
    owners = list(range(len(spans)))
    users: dict[int, list[Span]] = {}
    for one in sorted(owners, key=lambda index: -spans[index].size_bytes):
        free = [
            owner
            for owner, others in users.items()
            if not any(spans[one].overlaps(other) for other in others)
        ]
        owner = min(free, key=lambda index: spans[index].size_bytes, default=one)
        users.setdefault(owner, []).append(spans[one])
        owners[one] = owner
    return owners


def cpu_pipeline(target: Any) -> Any:
    """Return TVM's passes from Relax to code of its virtual machine, with the images in shared storages."""
    plan, *rest = pipeline.finalize_passes(target)
    return tvm.transform.Sequential(
        [
            *pipeline.library_dispatch_passes(target),
            *pipeline.legalize_passes(target),
            *pipeline.dataflow_lower_passes(target),
            plan,
            _ShareStorages(),
            *rest,
        ]
    )


@tvm.transform.module_pass(opt_level=0, name="ShareStorages")
class _ShareStorages:
    def transform_module(self, module: Any, _context: Any) -> Any:
        return share_storages(module)


def share_storages(module: Any) -> Any:
    """Return `module`, whose memory StaticPlanBlockMemory planned, with a function's images in less where they fit."""
    changed = {
        variable: _shared(function) if isinstance(function, relax.Function) else function
        for variable, function in module.functions_items()
    }
    return tvm.IRModule(changed, attrs=module.attrs)


def _shared(function: Any) -> Any:
    bindings = [one for block in function.body.blocks for one in block.bindings]
    spans = _spans(bindings, function.body.body)
    images = list(spans)
    owners = dict(zip(images, assign(list(spans.values())), strict=True))
    size_bytes = sum(spans[images[owner]].size_bytes for owner in set(owners.values()))
    if size_bytes >= _planned_bytes(bindings):
        return function
    made: dict[int, Any] = {}
    kept = []
    of_cpu: list[Any] = []
    for binding in bindings:
        if operator_of(binding.value) == _STORAGE:
            of_cpu = list(binding.value.args[1:])
            continue
        if binding.var in owners:
            owner = owners[binding.var]
            if owner not in made:
                size = relax.ShapeExpr([spans[images[owner]].size_bytes])
                storage = relax.op.memory.alloc_storage(size, *of_cpu)
                made[owner] = relax.Var(f"storage{len(made)}", relax.AnyType())
                kept.append(relax.VarBinding(made[owner], storage))
            image = relax.op.memory.alloc_tensor(made[owner], *binding.value.args[1:])
            binding = relax.VarBinding(binding.var, image)
        kept.append(binding)
    body = relax.SeqExpr([relax.BindingBlock(kept)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _planned_bytes(bindings: Sequence[Any]) -> int:
    """Return how much memory the storages take as TVM planned them."""
    return sum(
        int(binding.value.args[0].values[0])
        for binding in bindings
        if operator_of(binding.value) == _STORAGE
    )


def _spans(bindings: Sequence[Any], result: Any) -> dict[Any, Span]:
    """Return how long each image in a storage is needed, by its variable; none where one is the result."""
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    sizes: dict[Any, int] = {}
    # What a variable may be a view of.
    viewed: dict[Any, set[Any]] = {}
    for at, binding in enumerate(bindings):
        value = binding.value
        if operator_of(value) == _TENSOR:
            shape = [int(extent) for extent in value.args[2].values]
            item = np.dtype(str(binding.var.ty.dtype)).itemsize
            first[binding.var] = last[binding.var] = at
            sizes[binding.var] = item * math.prod(shape)
            viewed[binding.var] = {binding.var}
            continue
        images = {
            image
            for variable in relax.analysis.free_vars(value)
            for image in viewed.get(variable, ())
        }
        viewed[binding.var] = images
        for image in images:
            last[image] = at
    if any(viewed.get(variable) for variable in relax.analysis.free_vars(result)):
        return {}
    return {image: Span(first[image], last[image], sizes[image]) for image in first}
