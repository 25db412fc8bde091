"""Schedules of our own: which register tiles and loops a kernel may have, the most promising first."""
