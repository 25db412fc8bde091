"""What an error of TVM's or torch's says, in one line."""

from __future__ import annotations

_LONGEST = 300
_NOISE = ("Traceback ", "File ", "[bt]", "Stack trace", "----", "^")


def reason_of(error: BaseException) -> str:
    """Return the kind of `error` and the first line of its text that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return f"{type(error).__name__}: {telling[0][:_LONGEST] if telling else 'no message'}"
