"""What a lowered network is made of, against MetaSchedule's own extraction of tasks."""

from __future__ import annotations

import json
from collections import Counter

from torch import nn

from tests.compiler import naive
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.core.metaschedule import key_of
from tvm_mnas.compiler.lowering.kernels import kernels_of, key_of_function
from tvm_mnas.compiler.lowering.lower import lower_network


def _calls(tasks: list[tuple[str, int]]) -> Counter[str]:
    calls: Counter[str] = Counter()
    for text, count in tasks:
        calls[key_of(text)] += count
    return calls


def test_kernels_and_their_calls_are_those_that_metaschedule_extracts(
    lowered: LoweredNetwork, target: str
) -> None:
    found = {kernel.key: kernel.calls for kernel in lowered.kernels}
    assert found == _calls(naive.tasks_of(lowered.module, target))
    # They are known by now, and so remembered.
    assert kernels_of(lowered.module) == lowered.kernels


def test_a_layer_that_occurs_more_than_once_is_one_kernel_of_so_many_calls(target: str) -> None:
    layers = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()) for _ in range(5)]
    lowered = lower_network(nn.Sequential(*layers), (1, 16, 6, 6), target)
    found = {kernel.key: kernel.calls for kernel in lowered.kernels}
    assert found == _calls(naive.tasks_of(lowered.module, target))
    assert max(found.values()) == len(layers) - 1


def test_a_kernel_is_known_by_its_code_whatever_it_is_called(lowered: LoweredNetwork) -> None:
    variable, function = next(
        (variable, function)
        for variable, function in lowered.module.functions_items()
        if variable.name_hint != "main"
    )
    key = key_of_function(function)
    assert key == key_of_function(function.with_attr("global_symbol", "another"))
    kernel = next(kernel for kernel in lowered.kernels if kernel.key == key)
    # The workload that is written down is of this very code.
    assert key_of(json.loads(kernel.workload)[0]) == key, variable
