"""How the worker has a kernel timed on the device, or its instructions counted: by functions of the device's server.

While schedules are ranked a kernel is timed as a network runs it. Between two runs of one the rest of the network went
through the caches: its weights come from beyond them, and only its image, which the kernel before it wrote, is at hand.
A schedule that is fastest with warm weights may be twice as slow as the best there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from tvm_mnas.devices.servers.local_main import EVICT_FUNCTION, INSTRUCTIONS_FUNCTION

_COLD_RUNS = 5
"""Of how many single runs a sample is the median."""
_LONG_S = 0.05
"""A kernel that takes longer fetches its weights in a small part of that; so many runs of it would take all day."""


def warm_times_s(
    library: Any, device: Any, arguments: list[Any], request: Mapping[str, Any]
) -> list[float]:
    """Return samples of the entry of `library`, each the mean of runs one after another, as the timing asks."""
    timing = request["timing"]
    evaluator = library.time_evaluator(
        request.get("entry") or library.entry_name,
        device,
        number=timing["number"],
        repeat=timing["repeat"],
        min_repeat_ms=timing["min_repeat_ms"],
        cooldown_interval_ms=timing["cooldown_ms"],
    )
    return [float(value) for value in evaluator(*arguments).results]


def cold_times_s(
    library: Any, device: Any, arguments: list[Any], request: Mapping[str, Any]
) -> list[float]:
    """Return samples of the entry of `library`, each the median of runs with the caches as a network leaves them."""
    timing = request["timing"]

    def runs_s(count: int) -> list[float]:
        evaluator = library.time_evaluator(
            request.get("entry") or library.entry_name,
            device,
            number=1,
            repeat=count,
            cooldown_interval_ms=timing["cooldown_ms"],
            f_preproc=EVICT_FUNCTION,
        )
        return [float(value) for value in evaluator(*arguments).results]

    if max(runs_s(1)) > _LONG_S:
        return warm_times_s(library, device, arguments, request)
    found_s = runs_s(_COLD_RUNS * timing["repeat"])
    return [
        statistics.median(found_s[at : at + _COLD_RUNS])
        for at in range(0, len(found_s), _COLD_RUNS)
    ]


def evicts(remote: Any) -> bool:
    """Whether the server of the session `remote` can empty the caches; TVM's own cannot."""
    try:
        remote.get_function(EVICT_FUNCTION)
    except AttributeError:
        return False
    return True


def counted(remote: Any, module: Any, entry: str, arguments: list[Any]) -> list[int]:
    """Return the instructions of one call, all and by class, as an emulator counts them."""
    count = remote.get_function(INSTRUCTIONS_FUNCTION)
    return [int(number) for number in json.loads(str(count(module, entry, *arguments)))]
