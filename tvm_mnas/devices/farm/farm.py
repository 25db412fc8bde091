"""A farm: the devices of one profile, and leases (lease.py) on them that end at a deadline whatever happens.

For the profile `local` the farm starts a tracker and an RPC server on loopback, watches and restarts them, and
ends them with itself. For any other profile it goes to the tracker that the profile names. Either way each
lease is served by a worker process (worker.py), and every wait has a deadline on our side: TVM's client has none.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tvm_mnas.devices.core.cores import available_cores
from tvm_mnas.devices.core.host import Fingerprint
from tvm_mnas.devices.core.profile import DeviceProfile
from tvm_mnas.devices.core.tracker import DeviceStatus, TrackerAddress, TrackerClient
from tvm_mnas.devices.farm.channel import WorkerHandle, WorkerReply, WorkerStatus
from tvm_mnas.devices.farm.lease import Lease
from tvm_mnas.devices.farm.quarantine import FIRST_S, Quarantine
from tvm_mnas.devices.farm.reference import Reference, ReferenceTiming, ReferenceWatch
from tvm_mnas.devices.servers.local import LocalServices
from tvm_mnas.devices.servers.local_main import runtime_environment
from tvm_mnas.errors import (
    DeviceAddressError,
    DeviceError,
    DeviceLostError,
    LeaseTimeoutError,
    TrackerError,
)
from tvm_mnas.processes import Spawner

_LOCAL_WAIT_S = 3.0
"""A local device that is ours alone answers in 0.1 s; after this its server is taken for broken."""
_ANSWER_SLACK_S = 3.0
"""What a worker may need beyond the wait for a device: TVM's handshake."""
_CONNECT_S = 10.0
"""What a device may take from our connection to its first answer; one that is silent for longer is left alone."""
_SESSION_S = 60.0
"""A session is renewed at this age; where nobody else waits for the device, it would not have to be."""
_SURVEY_S = 15.0
_SURVEY_WAIT_S = 5.0
"""What looking at every device of a farm may take when it is opened, and waiting for one that another search has.

What is not looked at then is when it is first leased.
"""
_IDLE_RELEASE_S = 5.0
"""A device that others may want is given back after this time without a lease."""

_Result = TypeVar("_Result")


class Farm:
    """The devices of one profile. Use `open_farm`."""

    def __init__(
        self,
        profile: DeviceProfile,
        *,
        work_directory: Path,
        reference: Reference | None = None,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start what has to be started; raises TrackerError where no tracker can be had."""
        self.profile = profile
        self._watch: ReferenceWatch | None = None
        if reference is not None and not profile.emulated:
            self._watch = ReferenceWatch(reference, profile, on_warning=on_warning)
        self._directory = work_directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._reached: set[str] = set()
        self._closed = False
        self._spawner = Spawner()
        self._quarantine = Quarantine()
        self._services: LocalServices | None = None
        self._workers: list[WorkerHandle] = []
        try:
            if profile.tracker is None:
                self._workers.append(self._new_worker())
                self._workers[0].start()  # it imports TVM while the services do
                self._services = LocalServices(profile, self._spawner, directory=work_directory)
                self._tracker = self._services.start()
            else:
                self._tracker = profile.tracker
                count = len(self.devices())
                if count == 0:
                    raise LeaseTimeoutError(
                        f"tracker {self._tracker} has no device {profile.key!r}; register one with: "
                        f"python -m tvm.exec.rpc_server --tracker {self._tracker} --key {profile.key}"
                    )
                self._workers += [self._new_worker() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self._idle = list(self._workers)
        self._executor = ThreadPoolExecutor(len(self._workers), thread_name_prefix="tvm-mnas-lease")
        if self._watch is not None:
            try:
                self._survey()
            except BaseException:
                self.close()
                raise

    @property
    def tracker(self) -> TrackerAddress:
        """Where the tracker of this farm listens."""
        return self._tracker

    @property
    def capacity(self) -> int:
        """How many leases can be held at a time."""
        return len(self._workers)

    def devices(self) -> list[DeviceStatus]:
        """Return the devices that the tracker knows under the profile's key."""
        with TrackerClient(self._tracker) as tracker:
            return tracker.devices(self.profile.key)

    def fingerprint(self, *, deadline_s: float = 30.0) -> Fingerprint:
        """Return what a device of this farm says about itself."""
        with self.lease(deadline_s=deadline_s) as lease:
            return lease.fingerprint

    @contextmanager
    def lease(self, *, deadline_s: float = 30.0, hold_s: float = 30.0) -> Iterator[Lease]:
        """Yield a device that answers; it may be held for `hold_s`, then its session may end.

        Raises LeaseTimeoutError where none is free in time, DeviceLostError where one is listed but cannot
        be reached, TrackerError where the tracker is gone.
        """
        end = time.monotonic() + deadline_s
        while True:
            worker = self._take_worker(end, deadline_s)
            try:
                lease = self._open(worker, end, deadline_s, hold_s)
                if self._admits(worker, lease):
                    yield lease
                    return
            finally:
                self._give_back(worker)

    def read_reference(self, lease: Lease, *, deadline_s: float) -> ReferenceTiming | None:
        """Return what the reference kernel takes on a leased device, beside its level there.

        `None` for a farm without one, as every emulated farm is. Raises DeviceLostError where the device is lost.
        """
        return None if self._watch is None else self._watch.read(lease, deadline_s=deadline_s)

    def keep_reference(self, lease: Lease, reading: ReferenceTiming) -> ReferenceTiming:
        """Remember the reading that a latency got, so that a change that lasts becomes the level; return it anew."""
        return reading if self._watch is None else self._watch.keep(lease, reading)

    def reference_levels_ms(self) -> tuple[float, ...]:
        """Return what the reference kernel takes on each device that was met; empty for a farm without one."""
        return () if self._watch is None else tuple(1e3 * s for s in self._watch.levels_s())

    def warn(self, lease: Lease, text: str) -> None:
        """Tell whoever opened the farm something about a leased device."""
        if self._watch is not None:
            self._watch.warn(lease, text)

    def submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Run `work` on one of as many threads as there are devices."""
        return self._executor.submit(work)

    def close(self) -> None:
        """End every process that the farm started; a lease that is still held loses its device."""
        if self._closed:
            return
        self._closed = True
        with self._changed:
            self._changed.notify_all()  # nobody waits for a device of a closed farm
        if hasattr(self, "_executor"):
            self._executor.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end_process()
        if self._services is not None:
            self._services.close()
        if hasattr(self, "_executor"):
            self._executor.shutdown(wait=True)
        for worker in self._workers:
            worker.kill()  # a thread may have started one anew in the meantime
        self._spawner.close()
        if self._services is not None:
            shutil.rmtree(self._services.temporary, ignore_errors=True)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new_worker(self) -> WorkerHandle:
        # Off the measured core, so that speaking RPC does not disturb what is measured.
        cores = [core for core in available_cores() if core != self.profile.core]

        def spawn(read_fd: int, write_fd: int) -> subprocess.Popen[bytes]:
            return self._spawner.spawn_module(
                "tvm_mnas.devices.farm.worker",
                [str(read_fd), str(write_fd), ",".join(map(str, cores))],
                directory=self._directory,
                log=self._directory / "worker.log",
                environment=runtime_environment(),
                pass_fds=(read_fd, write_fd),
            )

        return WorkerHandle(spawn)

    def _survey(self) -> None:
        """Time the reference on every device while nothing else of ours runs, so that a slow one never measures."""
        end = time.monotonic() + _SURVEY_S
        held: list[WorkerHandle] = []
        try:
            # Each is held until all were looked at: otherwise the same device would be given again.
            while self._idle and time.monotonic() < end:
                held.append(self._idle.pop())
                soon = min(end, time.monotonic() + _SURVEY_WAIT_S)
                try:
                    lease = self._open(held[-1], soon, _SURVEY_WAIT_S, _SURVEY_S)
                    self._admits(held[-1], lease, to_measure=False)
                except DeviceError as error:
                    if not error.retried:
                        raise
        finally:
            self._idle += held

    def _admits(self, worker: WorkerHandle, lease: Lease, *, to_measure: bool = True) -> bool:
        if self._watch is None or self._watch.admits(lease, to_measure=to_measure):
            return True
        # Its session ends, so that nothing of ours runs there.
        worker.call({"op": "close"}, deadline_s=_ANSWER_SLACK_S)
        return False

    def _give_back(self, worker: WorkerHandle) -> None:
        with self._changed:
            self._idle.append(worker)
            self._changed.notify_all()

    def _slow(self) -> dict[str, str]:
        return {} if self._watch is None else self._watch.slow()

    def _left_alone(self) -> str:
        return "".join(f"; {name} is left alone: {why}" for name, why in self._slow().items())

    def _none_left(self) -> bool:
        # For each device that is too slow one worker stays idle: it would only wait for another's device.
        return len(self._idle) <= min(len(self._slow()), self.capacity - 1)

    def _take_worker(self, end: float, deadline_s: float) -> WorkerHandle:
        ticket = object()
        with self._changed:
            # In turn: whoever gives a device back and wants another would otherwise be faster for ever.
            self._queue.append(ticket)
            try:
                while (self._none_left() or self._queue[0] is not ticket) and not self._closed:
                    if not self._changed.wait(timeout=max(0.0, end - time.monotonic())):
                        raise LeaseTimeoutError(
                            f"no device {self.profile.key!r} became free within {deadline_s:g} s: "
                            f"all {self.capacity} are leased by this process{self._left_alone()}"
                        )
                if self._closed:
                    raise DeviceLostError("the farm is closed")
                return self._idle.pop()
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _open(self, worker: WorkerHandle, end: float, deadline_s: float, hold_s: float) -> Lease:
        reply = WorkerReply(WorkerStatus.NO_DEVICE)
        unreachable: set[str] = set()
        while not self._closed:
            left_s = end - time.monotonic()
            if left_s <= 0:
                break
            reply = self._find(worker, left_s, hold_s)
            if reply.status is WorkerStatus.OK:
                server = str(reply.values["server"])
                most_s = _LOCAL_WAIT_S if self._services else _CONNECT_S
                reply = self._connect(worker, server, min(left_s, most_s), hold_s)
                if reply.status is WorkerStatus.UNREACHABLE:
                    unreachable.add(server)
                    if len(unreachable) >= self.capacity:
                        raise self._address_error(server, reply)
                if reply.status is WorkerStatus.OK:
                    self._reached.add(server)
                    fingerprint = Fingerprint.of(reply.values["facts"])
                    name = self.profile.key if self._services else server
                    return Lease(worker, server, fingerprint, self._on_reply, name)
            if self._services is not None:
                # The tracker is ours and nobody else leases: whoever does not answer now is broken.
                self._services.recover()
            elif reply.status is WorkerStatus.NO_TRACKER:
                break
            time.sleep(0.1)
        raise self._lease_error(reply, deadline_s)

    def _find(self, worker: WorkerHandle, left_s: float, hold_s: float) -> WorkerReply:
        """Return the reply that names a device, at best one that is not in quarantine."""
        slow = set(self._slow())
        blocked = set(self._quarantine.blocked()) - slow
        if self._services is not None or len(blocked | slow) >= self.capacity:
            # Nobody else to go to: one that failed may be well again, and waiting would help nobody.
            blocked = set()
        wait_s = left_s
        if self._services is not None:
            wait_s = min(left_s, _LOCAL_WAIT_S)
        elif blocked:
            # It may be out of quarantine after that.
            wait_s = min(left_s, FIRST_S)
        request = {
            "op": "find",
            "key": self.profile.key,
            "tracker_host": self._tracker.host,
            "tracker_port": self._tracker.port,
            "wait_s": wait_s,
            "hold_s": hold_s,
            "avoid": sorted(blocked | slow),
        }
        return worker.call(request, deadline_s=wait_s + _ANSWER_SLACK_S)

    def _connect(
        self, worker: WorkerHandle, server: str, deadline_s: float, hold_s: float
    ) -> WorkerReply:
        request = {
            "op": "connect",
            "known_as": f"{self._tracker}/{self.profile.key}",
            "lifetime_s": hold_s + _SESSION_S,
            "idle_s": None if self._services else _IDLE_RELEASE_S,
            "probe": self._services is None and server not in self._reached,
            "shared": self._services.shared if self._services else None,
        }
        reply = worker.call(request, deadline_s=deadline_s + _ANSWER_SLACK_S)
        if reply.status is not WorkerStatus.OK:
            self._quarantine.unreachable(server, reply.message)
        return reply

    def _address_error(self, server: str, reply: WorkerReply) -> DeviceAddressError:
        return DeviceAddressError(
            f"device {self.profile.key!r} cannot be reached: tracker {self._tracker} lists it at {server}, where "
            f"nothing can be connected to from here ({reply.message}); start its server with --custom-addr and an "
            f"address that this machine reaches, or let tvm-mnas device push forward its port"
        )

    def _lease_error(self, reply: WorkerReply, deadline_s: float) -> Exception:
        where = f"device {self.profile.key!r} at tracker {self._tracker}"
        if self._services is not None:
            return DeviceLostError(
                f"{where} did not answer within {deadline_s:g} s ({reply.message}); "
                f"see {self._services.diagnosis()}"
            )
        if reply.status is WorkerStatus.NO_TRACKER:
            return TrackerError(reply.message)
        if reply.status is WorkerStatus.NO_DEVICE:
            return LeaseTimeoutError(
                f"no {where} became free within {deadline_s:g} s{self._left_alone()}; "
                "see who holds it with: tvm-mnas device list"
            )
        return DeviceLostError(
            f"{where} is listed but did not answer within {deadline_s:g} s ({reply.message}); "
            "restart its server"
        )

    def _on_reply(self, server: str, reply: WorkerReply) -> None:
        if reply.status is WorkerStatus.OK:
            self._quarantine.worked(server)
        elif reply.status in (WorkerStatus.HUNG, WorkerStatus.LOST):
            self._quarantine.failed(server, reply.message)
        # What hangs on the device would hang on: the session's timeout is long. Elsewhere it has to do.
        if self._services is not None and reply.status is WorkerStatus.HUNG:
            self._services.recover()


def open_farm(
    profile: DeviceProfile,
    *,
    work_directory: Path,
    reference: Reference | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Farm:
    """Return a farm to be used as a context manager; logs go to `work_directory`.

    With a `reference` kernel it leaves devices alone that are far slower than the fastest, and notices when one
    changes; `on_warning` gets a line about each. Emulators, whose times rank nothing, are never judged by it.

    Raises TrackerError where the profile's tracker does not answer, LeaseTimeoutError where it knows no
    such device. Neither takes longer than a few seconds.
    """
    return Farm(profile, work_directory=work_directory, reference=reference, on_warning=on_warning)
