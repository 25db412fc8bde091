"""What this machine's own server does before a kernel is timed as in a network: what it reads, in which order."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tvm_mnas.devices.servers import local_main
from tvm_mnas.devices.servers.local_main import evict


@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_image_is_read_last_and_its_output_before(
    monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    read: list[np.ndarray] = []
    monkeypatch.setattr(local_main, "_read", lambda values: read.append(values.copy()))
    values = [np.full((2, 3), at, np.float32) for at in range(others + 1)]
    evict(*(tvm.runtime.tensor(value) for value in values))
    assert read[0].nbytes == 16 << 20
    found = [one.view(np.float32).reshape(2, 3) for one in read[1:]]
    expected = [*values[1:][-1:], values[0]]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
