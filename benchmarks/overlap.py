"""What a farm of four devices measures beside one, and what that costs a training on the same machine.

    python benchmarks/overlap.py

The stages of a search overlap where the device is not this machine: the real pipeline, farm, tracker and server in C
are used, with networks that TVM compiled. The devices are processes here, so they idle for a set time where a board
would compute: their reference kernel, timed beside each network, sleeps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from device_faults import HOST, KEY, SERVERS, start_server, start_tracker

from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import TaskOutcome, run_all
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.streaming import StreamingPipeline
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.recipe import Recipe

if TYPE_CHECKING:
    from tvm_mnas.devices.farm.farm import Farm

NAP_S = 0.5
NETWORK = """
@I.ir_module
class Doubled:
    @R.function
    def main(numbers: R.Tensor((4,), "float32")):
        with R.dataflow():
            doubled = R.add(numbers, numbers)
            R.output(doubled)
        return doubled
"""
SHAPE = (4,)
DEVICES = (1, 4)
TRAINED = "i32_c3_w1:stem16_s22:r2_k3_s22_e3_i16_o24:head64:n10"
KERNEL = f"""
#include <unistd.h>
int __tvm_ffi_main(void *self, const void *arguments, int count, void *result) {{
  usleep({NAP_S * 1e6:.0f});
  return 0;
}}
"""


@dataclass
class Done:
    """A training that took no time."""

    steps: int = 0


class Instant:
    """An executor whose trainings end at once."""

    devices, slots = ("cpu",), 1

    def __init__(self) -> None:
        self._waiting: list[Callable[[TaskOutcome[Any]], None]] = []

    def submit(
        self, function: object, task: TrainTask, on_end: Callable[[TaskOutcome[Any]], None]
    ) -> Done:
        """Have it end with the next `poll`."""
        self._waiting.append(on_end)
        return Done()

    def poll(self, timeout_s: float) -> None:
        """End all."""
        ended, self._waiting = self._waiting, []
        for on_end in ended:
            on_end(TaskOutcome(Accuracy(0.5, 100, 1, 0.5, 0.1, 0, "validation"), None))


class OneNetwork:
    """A toolchain that lowers, tunes and compiles nothing: each candidate is the same network, measured on the farm."""

    def __init__(self, farm: Farm, network: Path) -> None:
        self.profile = SimpleNamespace(is_local=False)
        self.farm = farm
        self._network = network

    def lower(self, network: object, shape: object) -> Any:
        """Return something without kernels."""
        return SimpleNamespace(kernels=(), kernel_calls=0, moved_bytes=0)

    def missing(self, lowered: object) -> list[Any]:
        """There are none."""
        return []

    def kernels_us(self, lowered: object) -> None:
        """Nobody asks for it."""

    def compile(self, lowered: object, path: Path) -> Any:
        """Copy the network."""
        shutil.copy(self._network, path)
        return SimpleNamespace(path=path)

    def check_network(self, artifact: object, judge: object, *, seed: int) -> None:
        """It is the same each time."""

    def measure(self, artifact: Any) -> Latency:
        """Time it on a device of the farm."""
        from tvm_mnas.devices.farm.timing import measure

        return measure(artifact.path, SHAPE, self.farm)


class Different:
    """Different candidates, `at_once` on their way, until `enough` says so."""

    def __init__(self, *, at_once: int, enough: Callable[[int], bool]) -> None:
        self._space = load_space("quickstart")
        self._rng = random.Random(0)
        self._seen: set[str] = set()
        self._at_once, self._enough = at_once, enough
        self.ended = 0

    def take(self, most: int | None = None) -> list[Candidate]:
        """Return as many as there is room for."""
        room = 0 if self._enough(self.ended) else self._at_once - (len(self._seen) - self.ended)
        taken: list[Candidate] = []
        while len(taken) < room:
            candidate = self._space.decode(self._space.sample(self._rng))
            if candidate.id not in self._seen:
                self._seen.add(candidate.id)
                taken.append(candidate)
        return taken


@contextlib.contextmanager
def open_farms(directory: Path) -> Iterator[Callable[[int], Any]]:
    """Yield what opens a farm of so many devices, all of which end with the context."""
    from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
    from tvm_mnas.devices.core.tracker import TrackerAddress
    from tvm_mnas.devices.farm.farm import open_farm
    from tvm_mnas.devices.farm.reference import Reference
    from tvm_mnas.devices.servers.bundle import ARCHITECTURES, compile_server, find_compiler
    from tvm_mnas.devices.servers.local_main import free_port

    (directory / "nap.c").write_text(KERNEL)
    nap = directory / "nap.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(nap), str(directory / "nap.c")], check=True)
    compile_server(find_compiler(ARCHITECTURES[os.uname().machine]), directory / "server")
    address = TrackerAddress(HOST, free_port(HOST))
    once = TimingSettings(repeat=1, number=1, min_repeat_ms=0, warmup=0, attempts=1)
    reference = Reference(path=nap, arguments=(("float32", (8,)),), timing=once)
    timing = TimingSettings(repeat=3, min_repeat_ms=1, max_spread=1.0, attempts=1)
    profile = DeviceProfile(
        key=KEY,
        target='{"kind": "llvm", "num-cores": 1}',
        tracker=address,
        timing=timing,
    )
    tracker = start_tracker(address)
    servers: list[subprocess.Popen[bytes]] = []

    def farm_of(count: int) -> Any:
        while len(servers) < count:
            servers.append(start_server(SERVERS[1], address, free_port(HOST), directory))
        return open_farm(profile, work_directory=directory / f"farm-{count}", reference=reference)

    try:
        yield farm_of
    finally:
        tracker.kill()
        tracker.wait()
        for server in servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def compile_network(path: Path) -> Path:
    """Return a network of one operation on 4 numbers, compiled for this machine."""
    import tvm

    doubled = tvm.script.from_source(NETWORK)
    tvm.compile(doubled, target="llvm").export_library(str(path))
    return path


def stream(farm: Farm, network: Path, directory: Path, enough: Callable[[int], bool]) -> float:
    """Measure candidates until `enough(ended)`, and return how many a second after the first ones."""
    silent: Any = SimpleNamespace(stage=lambda *progress: None, note=lambda text: None)
    pipeline = CandidatePipeline(
        SearchConfig(),
        Recipe(steps=1),
        ("cpu",),
        cast(Any, OneNetwork(farm, network)),
        cast(Any, Instant()),
        directory,
        silent,
    )
    source = Different(at_once=3 * farm.capacity, enough=enough)
    ended_s: list[float] = []
    for _, evaluation in StreamingPipeline(pipeline).stream(source):
        if evaluation.latency is None:
            raise SystemExit(f"a network was not measured: {evaluation.failure}")
        source.ended += 1
        ended_s.append(time.perf_counter())
    # The last ones leave devices without work, and the first ones connect.
    counted = ended_s[2 * farm.capacity : -farm.capacity]
    return (len(counted) - 1) / (counted[-1] - counted[0])


def train(executor: LocalExecutor, steps: int) -> float:
    """Return how long one training of the embedded images took, without its evaluation, in seconds."""
    task = TrainTask(
        notation=TRAINED, data="embedded", data_seed=0, seed=0, recipe=Recipe(steps=steps)
    )
    ((_, outcome),) = run_all(executor, run_training, [task])
    return outcome.get().duration_s


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=24, help="for each device of a farm")
    parser.add_argument("--steps", type=int, default=60, help="of a training")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, open_farms(Path(name)) as farm_of:
        directory = Path(name)
        network = compile_network(directory / "net.so")
        rates: dict[int, float] = {}
        for devices in DEVICES:
            with farm_of(devices) as farm:
                enough = partial(operator.le, devices * arguments.networks)
                rates[devices] = stream(farm, network, directory, enough)
        ratios: list[float] = []
        with LocalExecutor(jobs=1) as executor, farm_of(DEVICES[-1]) as farm:
            train(executor, arguments.steps)
            for turn in range(arguments.rounds):
                # One after the other, and the other way round: a slow minute falls on both.
                took_s = {}
                for beside in (True, False) if turn % 2 else (False, True):
                    with (
                        measuring(farm, network, directory) if beside else contextlib.nullcontext()
                    ):
                        took_s[beside] = train(executor, arguments.steps)
                ratios.append(took_s[True] / took_s[False])
    few, many = DEVICES
    found = {
        "networks a second, 1 device": rates[few],
        f"networks a second, {many} devices": rates[many],
        "ratio": rates[many] / rates[few],
        "training beside them / alone, median": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"| devices that idle for {NAP_S} s a network | |\n| --- | ---: |")
    for what, value in found.items():
        print(f"| {what} | {value:.3f} |")


@contextlib.contextmanager
def measuring(farm: Farm, network: Path, directory: Path) -> Iterator[None]:
    """Have all devices of `farm` measure, in another thread, until the context ends."""
    done = threading.Event()
    least = 4 * farm.capacity
    thread = threading.Thread(
        target=stream,
        args=(farm, network, directory, lambda ended: done.is_set() and ended >= least),
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
