"""Images share memory where they can, never with one that is still needed; what a network computes stays the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline
from tvm.runtime.vm import VirtualMachine

from tests.compiler.targets import runs_here
from tvm_mnas.compiler.build.storages import Span, assign, cpu_pipeline, share_storages
from tvm_mnas.compiler.core.target import load_target

SPANS = st.lists(
    st.builds(
        lambda first, length, size: Span(first, first + length, size),
        st.integers(0, 12),
        st.integers(0, 6),
        st.integers(1, 9),
    ),
    max_size=12,
)
RESIDUAL = (16, 16, 8, 48, 12, 4, 18, 18, 4)
"""How wide images are around an inverted residual; the sixth is added to the last."""
CHAIN = (4, 24, 6, 36, 36, 6, 36, 10)
"""Likewise, all in one line, with the first added to the last."""
_NAME = "tvm_mnas.tests.widened"


def _total(spans: list[Span]) -> int:
    return sum(spans[owner].size_bytes for owner in set(assign(spans)))


@given(SPANS)
def test_none_that_live_at_the_same_time_share_a_storage(spans: list[Span]) -> None:
    owners = assign(spans)
    for one, other in combinations(range(len(spans)), 2):
        if owners[one] == owners[other]:
            apart = spans[one].last < spans[other].first or spans[other].last < spans[one].first
            assert apart


@given(SPANS)
def test_a_storage_is_that_of_its_largest_image(spans: list[Span]) -> None:
    for one, owner in enumerate(assign(spans)):
        assert spans[owner].size_bytes >= spans[one].size_bytes


def test_a_small_image_leaves_the_large_storage_to_a_large_one() -> None:
    residual, expanded, deep, further = Span(0, 5, 2), Span(1, 2, 9), Span(2, 3, 8), Span(3, 4, 9)
    owners = assign([residual, expanded, deep, further])
    assert owners[3] == owners[1] == 1
    assert _total([residual, expanded, deep, further]) == 19


def test_a_chain_needs_two_storages() -> None:
    chain = [Span(at, at + 1, 10 - at) for at in range(8)]
    assert len(set(assign(chain))) == 2


@tvm_ffi.register_global_func(_NAME, override=True)
def _widened(source: Any, output: Any) -> None:
    values, result = np.from_dlpack(source), np.from_dlpack(output)
    result[:] = np.resize(values, result.shape) + 1


def _naive(values: np.ndarray[Any, Any], widths: Sequence[int], kept: int) -> np.ndarray[Any, Any]:
    images = [values]
    for width in widths:
        images.append(np.resize(images[-1], (1, width)) + 1)
    again = np.resize(images[kept + 1], (2, widths[-1] // 2)) + 1
    total = np.resize(images[-1], again.shape) + again
    return np.resize(total, (1, 3)) + 1


def _module(widths: Sequence[int], kept: int) -> Any:
    """A chain of images of `widths`, the last of which is viewed in another shape and added to what comes of `kept`."""
    builder = relax.BlockBuilder()
    source = relax.Var("source", relax.TensorType((1, 3), "float32"))

    def widened(value: Any, *shape: int) -> Any:
        made = relax.call_dps_packed(_NAME, [value], relax.TensorType(shape, "float32"))
        return builder.emit(made)

    with builder.function("main", [source]):
        images = [source]
        for width in widths:
            images.append(widened(images[-1], 1, width))
        shape = (2, widths[-1] // 2)
        view = builder.emit(relax.op.reshape(images[-1], shape))
        again = widened(images[kept + 1], *shape)
        builder.emit_func_output(widened(builder.emit(relax.op.add(view, again)), 1, 3))
    return builder.finalize()


def _storage_bytes(module: Any) -> list[int]:
    text = module["main"].script()
    return [int(part.split("]")[0]) for part in text.split("alloc_storage(R.shape([")[1:]]


def _planned(widths: Sequence[int], kept: int) -> Any:
    """Return the chain with its memory planned by TVM."""
    target = load_target(runs_here())
    plan, *_ = pipeline.finalize_passes(target)
    passes = [
        *pipeline.legalize_passes(target),
        *pipeline.dataflow_lower_passes(target),
        plan,
    ]
    with target:
        return tvm.transform.Sequential(passes)(_module(widths, kept))


def test_images_around_a_residual_need_less_memory_than_as_they_come() -> None:
    planned = _planned(RESIDUAL, 5)
    before, after = _storage_bytes(planned), _storage_bytes(share_storages(planned))
    assert sum(after) < sum(before)
    assert max(after) == max(before) == 4 * max(RESIDUAL)


def test_images_that_would_need_more_stay_where_they_are() -> None:
    planned = _planned(CHAIN, 0)
    assert tvm_ffi.structural_equal(share_storages(planned), planned)


def test_what_has_no_images_is_left_alone() -> None:
    source = relax.Var("source", relax.TensorType((1, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [source]):
        builder.emit_func_output(source)
    module = builder.finalize()
    assert tvm_ffi.structural_equal(share_storages(module), module)


@pytest.mark.parametrize(("widths", "kept"), [(RESIDUAL, 5), (CHAIN, 0), ((6, 4), 1)])
def test_the_network_computes_the_same(widths: Sequence[int], kept: int) -> None:
    target = load_target(runs_here())
    module = _module(widths, kept)
    executable = tvm.compile(module, target=target, relax_pipeline=cpu_pipeline(target))
    machine = VirtualMachine(executable, tvm.cpu())
    values = np.arange(3, dtype=np.float32).reshape(1, 3)
    for _ in range(2):
        found = machine["main"](tvm.runtime.tensor(values)).numpy()
        np.testing.assert_array_equal(found, _naive(values, widths, kept))
