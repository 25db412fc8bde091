"""What an ELF file says it is made for."""

from __future__ import annotations

from pathlib import Path

# ELF's own numbers: bits, machine.
AARCH64, ARM = (64, 183), (32, 40)


def made_for(path: Path) -> tuple[int, int]:
    """Return the bits and the machine of the ELF file `path`."""
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    return {1: 32, 2: 64}[header[4]], int.from_bytes(header[18:20], "little")
