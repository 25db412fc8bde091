"""What a search is for: which networks the space of a configuration means."""

from __future__ import annotations

from tvm_mnas.config import DETECTION_TASK, SearchConfig
from tvm_mnas.errors import ConfigError
from tvm_mnas.space.catalogue import Space, find_space
from tvm_mnas.space.detector import DetectorSpace
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.training.data.sources import class_names
from tvm_mnas.training.detection.precision import check_installed


def space_of(config: SearchConfig) -> Space:
    """Return the space that a search of `config` goes through; detectors tell the classes of its data apart.

    Raises:
        SpaceError, ConfigError: if there is none, or detectors cannot be made of its networks.
        DataError: if detectors are searched, and the data is not there.
        UsageError: likewise, if what counts their precision is not installed.
    """
    space = find_space(config.space)
    if config.task != DETECTION_TASK:
        return space
    if not isinstance(space, SearchSpace):
        raise ConfigError(
            f"a detector's backbone is of blocks, which {config.space!r} does not have; take a space in a TOML file, "
            f"or one that ships"
        )
    # Before anything is trained, which it would be for nothing.
    check_installed()
    return DetectorSpace(space, len(class_names(config.data)))
