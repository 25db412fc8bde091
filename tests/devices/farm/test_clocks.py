"""Warm and cold samples: what the device's server is asked for, and that a kernel's weights are gone in between."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tvm import rpc

from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.farm.clocks import cold_times_s, evicts, warm_times_s
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.runner import measure_kernel
from tvm_mnas.devices.servers.local_main import EVICT_FUNCTION

REQUEST = {"timing": {"number": 4, "repeat": 3, "min_repeat_ms": 5, "cooldown_ms": 7}}
WEIGHTS = 1 << 16
QUICK = TimingSettings(repeat=3, number=1, min_repeat_ms=1, warmup=0, attempts=1)

READS_WEIGHTS = f"""
typedef struct {{ void *data; }} Tensor;
typedef struct {{ int type; unsigned padding; Tensor *tensor; }} Any;
int __tvm_ffi_main(void *self, const Any *args, int count, Any *result) {{
  const volatile float *weights = args[1].tensor->data;
  float sum = 0;
  for (int at = 0; at < {WEIGHTS}; at += 16) sum += weights[at];
  ((float *)args[0].tensor->data)[0] = sum;
  return 0;
}}
"""


class Library:
    """Answers as a remote module does, each run of its kernel one `step_s` longer than the one before."""

    entry_name = "main"

    def __init__(self, *, step_s: float = 1e-6) -> None:
        self.step_s = step_s
        self.asked: dict[str, Any] = {}

    def time_evaluator(self, entry: str, device: object, **settings: Any) -> Any:
        self.asked = {"entry": entry, **settings}
        results = [self.step_s * (at + 1) for at in range(settings["repeat"])]
        return lambda *arguments: SimpleNamespace(results=results)


def test_a_warm_sample_is_the_mean_of_runs_one_after_another() -> None:
    library = Library()
    assert warm_times_s(library, None, [], REQUEST) == pytest.approx([1e-6, 2e-6, 3e-6])
    assert (library.asked["number"], library.asked["repeat"]) == (4, 3)
    assert library.asked["min_repeat_ms"] == 5
    assert "f_preproc" not in library.asked


def test_a_cold_sample_is_the_median_of_single_runs_with_the_caches_emptied_before_each() -> None:
    library = Library()
    assert cold_times_s(library, None, [], REQUEST) == pytest.approx([3e-6, 8e-6, 13e-6])
    assert (library.asked["number"], library.asked["repeat"]) == (1, 15)
    assert library.asked["f_preproc"] == EVICT_FUNCTION
    assert library.asked["cooldown_interval_ms"] == 7


def test_a_kernel_that_takes_long_is_not_run_more_often_for_its_caches() -> None:
    library = Library(step_s=1.0)
    assert cold_times_s(library, None, [], REQUEST) == [1.0, 2.0, 3.0]
    assert (library.asked["number"], library.asked["repeat"]) == (4, 3)
    assert "f_preproc" not in library.asked


def test_a_server_that_cannot_empty_the_caches_is_known_for_it() -> None:
    assert evicts(SimpleNamespace(get_function=lambda name: name))
    assert not evicts(rpc.LocalSession())


def _samples(farm: Farm, kernel: Path, arguments: Sequence[Any], *, cold: bool) -> list[float]:
    samples = measure_kernel(
        farm, kernel, arguments, timing=QUICK, deadline_s=60, lease_deadline_s=60, cold=cold
    )
    assert isinstance(samples, list), samples
    return samples


@pytest.mark.timed
def test_weights_come_from_beyond_the_caches_between_cold_runs(farm: Farm, tmp_path: Path) -> None:
    source, kernel = tmp_path / "weights.c", tmp_path / "weights.so"
    source.write_text(READS_WEIGHTS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", kernel, source], check=True, timeout=60)
    arguments = [("float32", (16,)), ("float32", (WEIGHTS,))]
    warm = _samples(farm, kernel, arguments, cold=False)
    cold = _samples(farm, kernel, arguments, cold=True)
    assert len(cold) == QUICK.repeat
    assert min(cold) > min(warm)
