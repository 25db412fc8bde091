"""Records are applied kernel by kernel, and what comes out is what TVM makes of the whole network."""

from __future__ import annotations

from pathlib import Path

import pytest
import tvm_ffi
from tvm import relax

from tests.compiler import naive
from tests.compiler.conftest import Tuned
from tvm_mnas.compiler.build.scheduling import apply_records
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.kernels import key_of_function
from tvm_mnas.compiler.lowering.suppression import is_scheduled
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import BuildError


def test_the_kernels_are_those_of_tvms_own_way(lowered: LoweredNetwork, tuned: Tuned) -> None:
    ours = apply_records(lowered.module, tuned.store, lowered.target)
    assert all(
        is_scheduled(function)
        for _, function in ours.functions_items()
        if not isinstance(function, relax.Function)
    )
    assert tvm_ffi.structural_equal(ours, naive.scheduled(lowered, tuned.store))
    # A second time they are remembered.
    again = apply_records(lowered.module, tuned.store, lowered.target)
    assert tvm_ffi.structural_equal(again, ours)


def test_a_better_record_is_not_passed_over_for_one_that_is_remembered(
    lowered: LoweredNetwork, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = apply_records(lowered.module, tuned.store, lowered.target)
    key, records = next(
        (kernel.key, records)
        for kernel in lowered.kernels
        if len(records := tuned.store.records_of(kernel.key)) > 1
    )
    (other, *_) = [one for one in records if one != tuned.store.best_record(key)]
    kept = tuned.store.best_record
    monkeypatch.setattr(
        tuned.store, "best_record", lambda asked: other if asked == key else kept(asked)
    )
    after = apply_records(lowered.module, tuned.store, lowered.target)
    assert tvm_ffi.structural_equal(after, naive.scheduled(lowered, tuned.store))
    changed = [
        variable.name_hint
        for variable, function in after.functions_items()
        if not tvm_ffi.structural_equal(function, before[variable.name_hint])
    ]
    assert changed
    assert {key_of_function(lowered.module[name]) for name in changed} == {key}


def test_a_kernel_without_a_record_stays_as_it_is(
    lowered: LoweredNetwork, target: str, tmp_path: Path
) -> None:
    store = RecordStore.open(tmp_path / "records", target=target)
    module = apply_records(lowered.module, store, lowered.target)
    assert tvm_ffi.structural_equal(module, lowered.module)


def test_a_record_of_other_code_is_one_clear_error(
    lowered: LoweredNetwork, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = next(kernel for kernel in lowered.kernels if "conv2d" in kernel.name)
    dense = next(kernel for kernel in lowered.kernels if kernel.name.startswith("matmul"))
    record = tuned.store.best_record(convolution.key)
    kept = tuned.store.best_record
    monkeypatch.setattr(
        tuned.store, "best_record", lambda asked: record if asked == dense.key else kept(asked)
    )
    with pytest.raises(BuildError, match="matmul.*delete the tuning records") as caught:
        apply_records(lowered.module, tuned.store, lowered.target)
    assert "\n" not in str(caught.value)
