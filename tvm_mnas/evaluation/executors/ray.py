"""Runs trainings on a Ray cluster, each a task with its processors and accelerators.

    --executor ray                                 the cluster that runs on this machine, or one that starts here
    --executor ray:10.0.0.7:6379                   the cluster with this head; this machine is one of its nodes
    --executor ray:10.0.0.7:6379,cpus=4,gpus=0.5   what a training takes of its node; by default one of either

A lost node costs the trainings it had another attempt elsewhere. Nothing else is on the cluster: the study, the
controller and the devices stay with the process that searches.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from tvm_mnas.errors import ConfigError, DeviceError, TrainingError, TvmMnasError
from tvm_mnas.evaluation.executors.protocol import ATTEMPTS, ExecutorRequest, TaskOutcome
from tvm_mnas.evaluation.executors.ray_cluster import (
    ClusterSpec,
    connect,
    import_ray,
    reason,
    require_reachable,
)
from tvm_mnas.evaluation.executors.ray_task import (
    Board,
    LeavesFiles,
    Returned,
    Sent,
    installed_versions,
    run_sent,
)
from tvm_mnas.files import atomic_write_bytes

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_NODES = 5
"""So many nodes may be lost under one training, which is no fault of its own."""
_READ_S = 0.5


@dataclass(eq=False)
class _Away:
    """A task of a `RayExecutor`: how far it is, and how often its process and its node died."""

    number: int
    function: Callable[..., Any]
    task: Any
    on_end: Callable[[TaskOutcome[Any]], None]
    steps: int = 0
    deaths: int = 0
    lost_nodes: int = 0


class RayExecutor:
    """Trainings as tasks of a Ray cluster; a context manager. `devices` and `slots` are known once it is entered."""

    def __init__(self, spec: ClusterSpec, request: ExecutorRequest) -> None:
        self._spec, self._request = spec, request
        self._versions = installed_versions()
        self._queue: deque[_Away] = deque()
        self._running: dict[Any, _Away] = {}
        self._count = 0
        self._own = False
        self._read: Any = None
        self._read_at = 0.0
        self.devices: tuple[str, ...] = ("cpu",)
        self.slots = 1

    def __enter__(self) -> RayExecutor:
        """Connect to the cluster, or start one.

        Raises:
            ConfigError: if there is no such cluster, or it does not choose the accelerator that is asked for.
        """
        self._ray = import_ray()
        require_reachable(self._spec.address)
        # A program that uses Ray itself stays connected as it is.
        if not self._ray.is_initialized():
            connect(self._spec.address)
            self._own = True
        try:
            self._look()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.clear()
        # A cluster that is gone has nothing to cancel.
        with contextlib.suppress(Exception):
            for reference in self._running:
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._own:
            with contextlib.suppress(Exception):
                self._ray.shutdown()

    def submit(
        self,
        function: Callable[[_Task, Callable[[int], None]], _Result],
        task: _Task,
        on_end: Callable[[TaskOutcome[_Result]], None],
    ) -> _Away:
        """Have `function(task, report)` called on a node that has room; see `Executor`."""
        self._count += 1
        away = _Away(self._count, function, task, on_end)
        self._queue.append(away)
        self._send()
        return away

    def poll(self, timeout_s: float) -> None:
        """Wait for a task to end, for `timeout_s` at most; see `Executor`.

        Errors of tvm-mnas become outcomes, and so does the second death of a process under one task.

        Raises:
            DeviceError: if the cluster is out of reach.
        """
        if not self._running:
            return
        references = list(self._running)
        # The first to end is waited for, and all that have ended by then are taken.
        self._ray.wait(references, num_returns=1, timeout=timeout_s)
        done, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        ended: list[tuple[_Away, TaskOutcome[Any]]] = []
        for reference in done:
            away = self._running.pop(reference)
            outcome = self._outcome(reference, away)
            if outcome is not None:
                ended.append((away, outcome))
        self._read_board()
        self._send()
        for away, outcome in ended:
            away.on_end(outcome)

    def _outcome(self, reference: Any, away: _Away) -> TaskOutcome[Any] | None:
        """Return what became of a task, None if it is tried again."""
        errors = self._ray.exceptions
        try:
            returned: Returned = self._ray.get(reference)
        except errors.NodeDiedError as error:
            away.lost_nodes += 1
            where = getattr(error, "node_ip", "") or "a machine"
            if away.lost_nodes == _NODES:
                return TaskOutcome(
                    None, TrainingError(f"{_NODES} nodes were lost under a training")
                )
            self._request.on_warning(
                f"a node of the Ray cluster was lost ({where}); its training is tried elsewhere"
            )
            self._queue.appendleft(away)
            return None
        except (
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:
            away.deaths += 1
            if away.deaths == ATTEMPTS:
                why = str(error).split(".")[0]
                return TaskOutcome(None, TrainingError(f"a training process died twice: {why}"))
            self._queue.append(away)
            return None
        except errors.RayTaskError as error:
            # What the function itself raises is returned: this was raised before it was called.
            raise ConfigError(
                f"every node of a Ray cluster has tvm-mnas {self._versions['tvm-mnas']} and what it needs, and a node "
                f"could not begin a training ({reason(error)}); install the same there"
            ) from error
        except errors.RayError as error:
            raise DeviceError(
                f"the Ray cluster does not answer as it should: {reason(error)}; when it does, resume the search"
            ) from error
        return self._unpack(returned, away)

    def _unpack(self, returned: Returned, away: _Away) -> TaskOutcome[Any]:
        away.steps = returned.steps
        if returned.output and self._request.log is not None:
            with self._request.log.open("a", encoding="utf-8") as log:
                log.write(f"--- on {returned.node}\n{returned.output.rstrip()}\n")
        if isinstance(away.task, LeavesFiles) and returned.error is None:
            for path in away.task.files:
                if path.name in returned.files:
                    atomic_write_bytes(path, returned.files[path.name])
        if returned.error is None:
            return TaskOutcome(returned.result, None)
        if isinstance(returned.error, TvmMnasError):
            return TaskOutcome(None, returned.error)
        raise returned.error

    def _send(self) -> None:
        """Hand the cluster what waits; it has its own queue, unless `jobs` says how many run at once."""
        most = self._request.jobs
        while self._queue and (most == 0 or len(self._running) < most):
            away = self._queue.popleft()
            sent = Sent(
                away.number, away.function, away.task, self._versions, max(1, int(self._spec.cpus))
            )
            self._running[self._remote.remote(sent, self._board)] = away

    def _read_board(self) -> None:
        """Take note of the steps that tasks have told, without waiting for them."""
        now = time.monotonic()
        if self._read is None:
            if now - self._read_at >= _READ_S:
                self._read, self._read_at = self._board.read.remote(), now
            return
        done, _ = self._ray.wait([self._read], timeout=0)
        if not done:
            return
        # Whether a board that died can be read is no matter for a training.
        with contextlib.suppress(self._ray.exceptions.RayError):
            steps: dict[int, int] = self._ray.get(self._read)
            for away in self._running.values():
                away.steps = steps.get(away.number, away.steps)
        self._read = None

    def _look(self) -> None:
        """See what the cluster has, and prepare how tasks are sent to it."""
        gpus = self._gpus()
        self.devices = ("cuda:0",) if gpus else ("cpu",)
        self.slots = self._count_slots(gpus)
        options = {"num_cpus": self._spec.cpus, "num_gpus": gpus, "max_retries": 0}
        self._remote = self._ray.remote(**options)(run_sent)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver: a node that is lost takes no progress with it.
        here = NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=True
        )
        self._board = self._ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(
            Board
        ).remote()

    def _gpus(self) -> float:
        """Return what a training takes of an accelerator: nothing on a cluster without, unless it is waited for."""
        wanted = self._request.train_device
        there = self._ray.cluster_resources().get("GPU", 0)
        if wanted == "cpu" or (wanted == "auto" and not there):
            return 0
        if wanted not in ("auto", "cuda"):
            raise ConfigError(
                f"Ray chooses the accelerator of a training, and --train-device is {wanted}; take auto, cpu or cuda"
            )
        if not there:
            self._request.on_warning(
                "no node of the Ray cluster has an accelerator yet; trainings wait for one"
            )
        return self._spec.gpus

    def _count_slots(self, gpus: float) -> int:
        slots = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                room = int(node["Resources"].get("CPU", 0) / self._spec.cpus)
                if gpus:
                    room = min(room, int(node["Resources"].get("GPU", 0) / gpus))
                slots += room
        return max(1, min(slots, self._request.jobs or slots))


def open_ray(request: ExecutorRequest, *, text: str = "") -> RayExecutor:
    """Return what `--executor ray:TEXT` names.

    Raises:
        ConfigError: if the text is wrong, or Ray is not installed.
    """
    import_ray()
    return RayExecutor(ClusterSpec.parse(text), request)
