"""Which Ray cluster trainings run on, and how this program connects to it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm_mnas.devices.core.cores import usable_processes
from tvm_mnas.errors import ConfigError

_REACH_S = 5.0
_STORE_BYTES = 512 * 2**20
"""Of a cluster that starts here: weights are all that passes through its store."""
_HERE = "here"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Which cluster, and what a training takes of a node.

    `address` is host:port, "here" for a cluster of this machine alone, or empty: the one that runs here, if any.
    """

    address: str = ""
    cpus: float = 1
    gpus: float = 1

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if not 0 < value < 1024 or (value > 1 and value != int(value)):
                raise ConfigError(
                    f"{name} of --executor ray is a part of one or a whole number, not {value:g}"
                )

    @classmethod
    def parse(cls, text: str) -> ClusterSpec:
        """Return the cluster that `text` names: ADDRESS, cpus=N and gpus=N, parted by commas, each of them optional.

        Raises:
            ConfigError: if it is no such text.
        """
        address = ""
        taken: dict[str, float] = {}
        for place, part in enumerate(filter(None, text.split(","))):
            name, equals, value = part.partition("=")
            if not equals and place == 0:
                address = part
                continue
            try:
                if name not in ("cpus", "gpus"):
                    raise ValueError(name)
                taken[name] = float(value)
            except ValueError as error:
                raise ConfigError(
                    f"--executor ray takes an address, then cpus=N and gpus=N, and not {part!r}; "
                    f"write, for example, --executor ray:10.0.0.7:6379,gpus=0.5"
                ) from error
        return cls(address, **taken)


def connect(address: str) -> None:
    """Connect this program to the cluster at `address`, or to one that is started here.

    Raises:
        ConfigError: if there is none, or it is none for us.
    """
    ray = import_ray()
    with _signals_kept():
        try:
            if address != _HERE:
                try:
                    return _init(ray, address or "auto")
                except ConnectionError:
                    if address:
                        raise
            _init(ray, "local")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(
                f"cannot use the Ray cluster {address or 'of this machine'}: {reason(error)}; `ray status` on "
                f"this machine tells what it knows of one"
            ) from error


def _init(ray: Any, address: str) -> None:
    own: dict[str, Any] = {}
    if address == "local":
        # It is ours alone, and tells nobody anything.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        own = {
            "num_cpus": usable_processes(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)


def import_ray() -> Any:
    """Return Ray, which is not installed with all else; ConfigError if it is not."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--executor ray needs Ray, which is not installed; `pip install 'tvm-mnas[ray]'` installs it"
        ) from error
    return ray


def require_reachable(address: str) -> None:
    """Refuse an address, or that in RAY_ADDRESS, at which nothing answers: Ray itself would try for minutes."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        if not port.isdigit():
            raise ValueError("host:port has a port")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); `ray start --head` starts one, and prints its address"
        ) from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Leave the handling of SIGTERM as it is, which Ray takes over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def reason(error: BaseException) -> str:
    """Return the line of an error of Ray that tells what happened: the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
