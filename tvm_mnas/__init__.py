"""Search for a network whose measured, auto-scheduled latency on your device is part of the reward."""

__version__ = "0.1.0"
