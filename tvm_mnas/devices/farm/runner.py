"""MetaSchedule's runner over our leases: a kernel that crashes or hangs costs its own schedule and no more.

TVM's own RPC runner has no deadline on our side, opens a session for every kernel and runs a farm serially.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.runner import (
    PyRunner,
    PyRunnerFuture,
    RunnerFuture,
    RunnerInput,
    RunnerResult,
)

from tvm_mnas.devices.core.profile import TimingSettings
from tvm_mnas.devices.farm.channel import WorkerReply, WorkerStatus
from tvm_mnas.devices.farm.farm import Farm
from tvm_mnas.devices.farm.instructions import ORDER_S, InstructionCounts
from tvm_mnas.errors import DeviceError

REASONS = {
    WorkerStatus.FAILED: "error",
    WorkerStatus.LOST: "crash",
    WorkerStatus.HUNG: "timeout",
}
"""The first word of a failed schedule's message: what a report counts failures by. Beside these "bad-time" (a
time that is no number above zero) and `NO_DEVICE` (none could be leased)."""

NO_DEVICE = "no-device"

_Arguments = Sequence[tuple[str, Sequence[int]]]


@derived_object
class KernelFuture(PyRunnerFuture):  # type: ignore[misc]
    """The result to come of one schedule."""

    def __init__(self, future: Future[RunnerResult]) -> None:
        """Wrap what the farm's thread will return."""
        super().__init__()
        self.future = future

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self.future.done()

    def result(self) -> RunnerResult:
        """Return run times in seconds or a message whose first word is the reason."""
        return self.future.result()


@derived_object
class KernelRunner(PyRunner):  # type: ignore[misc]
    """Measures built kernels (`.so` files) on the devices of a farm, as many at a time as there are devices.

    `deadline_s` bounds one kernel's upload and timing, `lease_deadline_s` the wait for a device. With
    `overlap` false `run` returns only when all is measured: for a machine whose builders would otherwise share
    the measured core. `on_result` is told each schedule's outcome: `None` or the reason of its failure.
    """

    def __init__(
        self,
        farm: Farm,
        *,
        timing: TimingSettings | None = None,
        deadline_s: float = 10.0,
        lease_deadline_s: float = 60.0,
        overlap: bool = True,
        on_result: Callable[[str | None], None] | None = None,
    ) -> None:
        """Measure on `farm`, timed as its profile's `kernel_timing` says unless `timing` is given."""
        super().__init__()
        self.farm = farm
        self.timing = timing if timing is not None else farm.profile.kernel_timing
        self.deadline_s = deadline_s
        self.lease_deadline_s = lease_deadline_s
        self.overlap = overlap
        self.on_result = on_result

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Return a future for each input, in order."""
        futures = [self._submit(runner_input) for runner_input in runner_inputs]
        if not self.overlap:
            for future in futures:
                future.result()
        return [KernelFuture(future) for future in futures]

    def _submit(self, runner_input: RunnerInput) -> Future[RunnerResult]:
        # TVM's objects are read here: the threads see plain values only.
        path = Path(str(runner_input.artifact_path))
        arguments = []
        for info in runner_input.args_info:
            _, dtype, shape = info.as_json()
            arguments.append((str(dtype), tuple(int(extent) for extent in shape)))
        return self.farm.submit(lambda: self._measure(path, arguments))

    def _measure(self, path: Path, arguments: _Arguments) -> RunnerResult:
        outcome = measure_kernel(
            self.farm,
            path,
            arguments,
            timing=self.timing,
            deadline_s=self.deadline_s,
            lease_deadline_s=self.lease_deadline_s,
            cold=True,
        )
        failed = isinstance(outcome, str)
        if self.on_result is not None:
            self.on_result(str(outcome).partition(":")[0] if failed else None)
        return RunnerResult(None, outcome) if failed else RunnerResult(outcome, None)


def measure_kernel(
    farm: Farm,
    path: Path,
    arguments: _Arguments,
    *,
    timing: TimingSettings,
    deadline_s: float,
    lease_deadline_s: float,
    entry: str = "",
    cold: bool = False,
) -> list[float] | str:
    """Return a kernel's run times in seconds, or "reason: what happened". Never raises for the device's sake.

    With `cold` it is timed as in a network, whose other kernels went through the caches since its last run, if the
    device's server can see to that. Where an emulator counts instructions it is these, by their order in place of a
    time (`instructions.py`). A lost connection is tried once more: it may have been the server's end and not the
    kernel's doing.
    """
    reply = WorkerReply(WorkerStatus.LOST)
    for _ in range(2):
        try:
            with farm.lease(deadline_s=lease_deadline_s, hold_s=deadline_s) as lease:
                reply = lease.time_kernel(
                    path, arguments, timing, deadline_s=deadline_s, entry=entry, cold=cold
                )
        except DeviceError as error:
            return f"{NO_DEVICE}: {error}"
        if reply.status is not WorkerStatus.LOST:
            break
    if reply.status is not WorkerStatus.OK:
        return f"{REASONS.get(reply.status, 'error')}: {reply.message}"
    if "instructions" in reply.values:
        return [InstructionCounts.of(reply.values["instructions"]).all * ORDER_S]
    samples = [float(sample) for sample in reply.values["samples_s"]]
    if not samples or not all(math.isfinite(sample) and sample > 0 for sample in samples):
        return f"bad-time: a run time must be above 0 s, not {samples}"
    return samples
