"""What an error of TVM's or torch's says, in one line."""

from __future__ import annotations

from tvm_mnas.errors import first_line


def reason_of(error: BaseException) -> str:
    """Return the kind of `error` and the first line of its text that says something."""
    kind, line = type(error).__name__, first_line(error)
    return f"{kind}: {'no message' if line == kind else line}"
