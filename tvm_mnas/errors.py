"""Every error that tvm-mnas raises on purpose.

    TvmMnasError                     not retried    exit 1
    |-- UsageError                   not retried    exit 2   the user asked for something that cannot be
    |   |-- SpaceError               a space file or an architecture's notation breaks a rule
    |   |-- ConfigError              a flag, a setting or a unit is wrong
    |   |-- ProfileError             a device profile is unknown or wrong
    |   `-- DataError                training data is missing or malformed
    |-- RunError                     not retried    exit 1   a run is corrupt, in use or of another search
    |-- InterruptedRunError          not retried    exit 130 the user ended a run, whose state is saved
    |-- HostError                    not retried    exit 1   this machine has no room, or does not let us write
    |-- RecordsError                 not retried    exit 1   tuning records are unreadable or of another target
    |-- BundleError                  not retried    exit 1   a device's server cannot be built here
    |-- CandidateError               not retried             this candidate failed; the search goes on
    |   |-- TrainingError            the short training diverged
    |   |-- LoweringError            TVM cannot express the network
    |   |-- BuildError               a kernel or the network did not compile or link
    |   |-- UntunedKernelError       a kernel has no record, so the network has no latency
    |   `-- MeasurementError         the device answered, but with no usable time or output
    `-- DeviceError                  retried        exit 1   the device or the way to it failed, not the candidate
        |-- TrackerError             the tracker does not answer
        |-- LeaseTimeoutError        no device became free before the deadline
        |-- DeviceLostError          the device vanished, hung or crashed during the lease
        `-- DeviceAddressError       not retried    the tracker names an address that cannot be reached from here

A message names the rule, the value received and the next command to type. Libraries raise these; only
`cli.py` prints them and turns `exit_code` into the exit status. `retried` says whether the same work, asked
for again, may succeed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import ClassVar

INTERRUPTED = 130
"""The exit status of a program that was interrupted, by the shell's convention."""

_HOST_FAULTS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENFILE,
    errno.EMFILE,
    errno.ENOMEM,
)

_LONGEST_LINE = 300
_NOISE = ("Traceback ", "File ", "[bt]", "Stack trace", "----", "^")
"""How lines begin in which TVM and torch say nothing."""


class TvmMnasError(Exception):
    """The root of the hierarchy: catch this to catch everything tvm-mnas raises on purpose."""

    exit_code: ClassVar[int] = 1
    retried: ClassVar[bool] = False

    def __str__(self) -> str:
        """Return the message as one line, whatever a file or a name in it holds."""
        text = super().__str__()
        if len(text.splitlines()) > 1 or text.strip() != text:
            text = " ".join(text.split())
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )


class UsageError(TvmMnasError):
    """What was asked for cannot be done as asked."""

    exit_code: ClassVar[int] = 2


class SpaceError(UsageError):
    """A space file or an architecture's notation breaks a rule."""


class ConfigError(UsageError):
    """A flag, a setting or a unit is wrong."""


class ProfileError(UsageError):
    """A device profile is unknown or wrong."""


class DataError(UsageError):
    """Training data is missing or malformed."""


class RunError(TvmMnasError):
    """A run directory is corrupt, in use by another process, or belongs to another search."""


class InterruptedRunError(TvmMnasError):
    """The user or the system ended a run; what it had finished is saved."""

    exit_code: ClassVar[int] = INTERRUPTED


class HostError(TvmMnasError):
    """This machine failed, whatever was to be done: its disk is full, or may not be written to."""


class RecordsError(TvmMnasError):
    """Tuning records are unreadable or belong to another target."""


class BundleError(TvmMnasError):
    """A device's server cannot be built here: a compiler, a library or a wheel is missing."""


class CandidateError(TvmMnasError):
    """One candidate failed for a reason of its own; it is recorded and the search goes on."""


class TrainingError(CandidateError):
    """The short training diverged or could not start."""


class LoweringError(CandidateError):
    """TVM cannot express the network."""


class BuildError(CandidateError):
    """A kernel or the whole network did not compile or link."""


class UntunedKernelError(CandidateError):
    """A kernel has no tuning record, so the network has no latency worth reporting."""


class MeasurementError(CandidateError):
    """The device answered, but with no usable time or output."""


class DeviceError(TvmMnasError):
    """The device, or the way to it, failed; the candidate may succeed elsewhere or later."""

    retried: ClassVar[bool] = True


class TrackerError(DeviceError):
    """The tracker does not answer."""


class LeaseTimeoutError(DeviceError):
    """No device became free before the deadline."""


class DeviceLostError(DeviceError):
    """The device vanished, hung or crashed during the lease."""


class DeviceAddressError(DeviceError):
    """A device is registered under an address that cannot be reached from this machine, and never was."""

    retried: ClassVar[bool] = False


class Interruption(KeyboardInterrupt):
    """SIGINT or SIGTERM, as the command line hears them; no failure of anything.

    Not Python's own class: `python -m` ends by SIGINT, whatever we say, once that has passed through the `exec` of a
    text.
    """


def is_interruption(error: BaseException) -> bool:
    """Whether `error` is KeyboardInterrupt, or what that became on its way.

    Raised inside an import or a callback, an interruption may arrive as any exception, with itself as the cause.
    """
    return any(isinstance(origin, KeyboardInterrupt) for origin in _origins(error))


def host_fault(error: BaseException) -> str | None:
    """Return what this machine lacks if that is where `error` comes from, as the system says it; None if not."""
    for origin in _origins(error):
        if isinstance(origin, OSError) and origin.errno in _HOST_FAULTS:
            return os.strerror(origin.errno)
        fault = _host_fault_in(str(origin))
        if fault is not None:
            return fault
    return None


def raise_if_host_failed(text: str) -> None:
    """Raise HostError if what another program says is that this machine failed."""
    fault = _host_fault_in(text)
    if fault is not None:
        raise HostError(host_message(fault))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something, its kind where none does."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return telling[0][:_LONGEST_LINE] if telling else type(error).__name__


def _origins(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it comes from, the latest first."""
    origin: BaseException | None = error
    while origin is not None:
        yield origin
        origin = origin.__cause__ or origin.__context__


def _host_fault_in(text: str) -> str | None:
    return next((words for words in map(os.strerror, _HOST_FAULTS) if words in text), None)


def raise_if_foreign(error: Exception) -> None:
    """Raise what is no fault of the work: a boundary calls this before it blames the work for what others raise.

    Raises:
        KeyboardInterrupt: if the user, or the system, interrupted it.
        HostError: if this machine failed.
    """
    if is_interruption(error):
        raise KeyboardInterrupt from error
    fault = host_fault(error)
    if fault is not None:
        raise HostError(host_message(fault)) from error


def host_message(fault: str) -> str:
    """Return what to do about a fault of this machine's."""
    return f"this machine cannot go on: {fault}; `df -h` shows where, then do the same again"
