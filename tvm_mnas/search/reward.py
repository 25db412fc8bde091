"""What the search maximizes: the paper's reward of an accuracy and a latency.

No number without a measurement: a candidate that failed has no reward at all (`None`), never a bad
one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tvm_mnas.errors import ConfigError

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_LATENCY = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>us|µs|ms|s)\s*")


def parse_latency(text: str) -> float:
    """Return the latency that `text` states, such as `80ms`, `0.08s` or `900us`, in milliseconds.

    Raises:
        ConfigError: if `text` is not a positive number followed by its unit.
    """
    # A TOML file may hold a number where the text is due; it has no unit, which is the point.
    match = _LATENCY.fullmatch(text) if isinstance(text, str) else None
    latency_ms = float(match["number"]) * _MILLISECONDS[match["unit"]] if match else 0.0
    if latency_ms <= 0.0 or not math.isfinite(latency_ms):
        raise ConfigError(
            f"a latency must be a positive number with its unit (us, ms or s), not {text!r}: "
            "write, for example, 80ms"
        )
    return latency_ms


@dataclass(frozen=True, slots=True)
class Reward:
    """The objective of the search (paper, equations 2 and 3).

        reward = ACC * (LAT / T)^w    with w = alpha if LAT <= T, else beta

    `target_latency_ms` is T. Both exponents are at most 0: a slower network of the same accuracy is
    never worth more. The defaults are the paper's soft constraint.
    """

    target_latency_ms: float
    alpha: float = -0.07
    beta: float = -0.07

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target_latency_ms) and self.target_latency_ms > 0.0):
            raise ConfigError(
                "a target latency is a positive number of milliseconds, "
                f"not {self.target_latency_ms}"
            )
        for name, exponent in (("alpha", self.alpha), ("beta", self.beta)):
            if not (math.isfinite(exponent) and exponent <= 0.0):
                raise ConfigError(
                    f"{name} must be at most 0 (the paper takes -0.07, 0 or -1), not {exponent}"
                )

    @classmethod
    def soft(cls, target_latency_ms: float) -> Reward:
        """Return the paper's soft constraint: halving the latency is worth about 5%."""
        return cls(target_latency_ms, alpha=-0.07, beta=-0.07)

    @classmethod
    def hard(cls, target_latency_ms: float) -> Reward:
        """Return the paper's hard constraint: accuracy alone up to the target."""
        return cls(target_latency_ms, alpha=0.0, beta=-1.0)

    def __call__(self, accuracy: float, latency_ms: float) -> float:
        """Return the reward of a network with this `accuracy` (0..1) and latency.

        Raises:
            ConfigError: if the accuracy is not in 0..1 or the latency not positive and finite.
        """
        if not 0.0 <= accuracy <= 1.0:
            raise ConfigError(
                f"an accuracy must be a fraction in 0..1, not {accuracy}: divide a percentage by 100"
            )
        if not (math.isfinite(latency_ms) and latency_ms > 0.0):
            raise ConfigError(
                f"a latency must be a positive, finite number of milliseconds, not {latency_ms}: "
                "report a failed measurement as a failed trial"
            )
        exponent = self.alpha if latency_ms <= self.target_latency_ms else self.beta
        return float(accuracy * (latency_ms / self.target_latency_ms) ** exponent)

    def of(self, accuracy: float | None, latency_ms: float | None) -> float | None:
        """Return the reward of a candidate, or `None` where it has no accuracy or no latency."""
        if accuracy is None or latency_ms is None:
            return None
        return self(accuracy, latency_ms)
