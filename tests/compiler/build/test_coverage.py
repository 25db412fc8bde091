"""The part of the run time in kernels with a record is the arithmetic of times, and its limit is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.build.coverage import tuned_share, untuned_kernels
from tvm_mnas.compiler.records.formats import FAILED_S
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import UntunedKernelError

FAST, FAILED, UNKNOWN = (
    replace(make_kernel(number), calls=calls) for number, calls in ((1, 3), (2, 2), (3, 1))
)
KERNELS = (FAST, FAILED, UNKNOWN)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """One kernel that takes 20 us, one of which nothing ran, and one that nobody has heard of."""
    store = RecordStore.open(tmp_path / "store", target=TARGET)
    add(store, FAST, [make_record(2e-5), make_record(3e-5, trace="slower")])
    add(store, FAILED, [make_record(FAILED_S)])
    return store


def test_a_kernel_without_a_schedule_that_ran_is_untuned(store: RecordStore) -> None:
    assert untuned_kernels(KERNELS, store) == [FAILED, UNKNOWN]


def test_the_share_is_time_by_calls_over_all_of_it(store: RecordStore) -> None:
    share = tuned_share(
        KERNELS,
        store,
        untuned_us={FAILED.key: 5.0, UNKNOWN.key: 30.0, FAST.key: 1e6},
        max_untuned_share=0.4,
    )
    # Three calls of 20 us from the record; without one two of 5 us and one of 30 us.
    assert share == pytest.approx(60 / (60 + 10 + 30), rel=1e-12)


def test_a_network_that_is_all_tuned_needs_no_choice(store: RecordStore) -> None:
    assert tuned_share([FAST], store, untuned_us={}, max_untuned_share=0.0) == 1.0
    assert tuned_share([FAST], store, untuned_us={}, max_untuned_share=0.5) == 1.0


def test_without_the_choice_a_known_time_lets_nothing_in(store: RecordStore) -> None:
    with pytest.raises(UntunedKernelError, match=FAILED.key):
        tuned_share([FAST, FAILED], store, untuned_us={FAILED.key: 1e-6}, max_untuned_share=0.0)


def test_the_limit_itself_is_still_let_in(store: RecordStore) -> None:
    # 20 of 80 us, exactly a quarter.
    times_us = {FAILED.key: 10.0}
    assert tuned_share([FAST, FAILED], store, untuned_us=times_us, max_untuned_share=0.25) == 0.75
    with pytest.raises(UntunedKernelError):
        tuned_share([FAST, FAILED], store, untuned_us=times_us, max_untuned_share=0.2499)


def test_a_refusal_names_the_share_the_costliest_and_what_to_type(store: RecordStore) -> None:
    with pytest.raises(UntunedKernelError) as caught:
        # A call of the one takes longer, all calls of the other do.
        tuned_share(
            KERNELS,
            store,
            untuned_us={FAILED.key: 25.0, UNKNOWN.key: 30.0},
            max_untuned_share=0.05,
        )
    text = str(caught.value)
    assert "\n" not in text
    assert "at most 5%" in text
    assert "57.1%" in text
    assert FAILED.name in text
    assert FAILED.key in text
    assert UNKNOWN.key not in text
    assert "50 of 140 us" in text
    assert "`tvm-mnas tune MODEL --schedules-per-kernel N`" in text


@pytest.mark.parametrize("time_us", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_kernel_whose_time_is_not_known_is_never_let_in(
    store: RecordStore, time_us: float | None
) -> None:
    times_us = {} if time_us is None else {FAILED.key: time_us}
    with pytest.raises(UntunedKernelError, match=f"{FAILED.key}.*could not be timed"):
        tuned_share([FAST, FAILED], store, untuned_us=times_us, max_untuned_share=0.99)
