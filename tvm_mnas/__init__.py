"""Search for a network whose measured, auto-scheduled latency on your device is part of the reward.

The library: every name in `__all__` is loaded when it is first used, so that importing this package imports nothing
heavy. `tvm_mnas.errors` has the errors, `tvm_mnas.plugins` the doors for parts of one's own.
"""

__version__ = "0.1.0"

_EXPORTS = {
    # Latency of any network, on a device
    "Device": "tvm_mnas.workflows.oracle",
    "DeviceProfile": "tvm_mnas.devices.core.profile",
    "Latency": "tvm_mnas.devices.core.latency",
    # A search
    "run_search": "tvm_mnas.workflows.search",
    "resume_search": "tvm_mnas.workflows.search",
    "SearchConfig": "tvm_mnas.config",
    "SearchResult": "tvm_mnas.search.result",
    "FrontPoint": "tvm_mnas.search.result",
    "Evaluation": "tvm_mnas.evaluation.results",
    "Reward": "tvm_mnas.search.reward",
    # Spaces
    "Architecture": "tvm_mnas.space.architecture",
    "SearchSpace": "tvm_mnas.space.space",
    "NetworkSpace": "tvm_mnas.space.network_space",
    "Decision": "tvm_mnas.space.space",
    "DetectorArchitecture": "tvm_mnas.space.detector",
    "find_space": "tvm_mnas.space.catalogue",
    # Parts of one's own
    "Trainer": "tvm_mnas.evaluation.trainers",
    "TrainTask": "tvm_mnas.evaluation.trainers",
    "Accuracy": "tvm_mnas.training.accuracy",
    "DataSource": "tvm_mnas.training.data.sources",
    "LoadOptions": "tvm_mnas.training.data.images",
    "DataSplits": "tvm_mnas.training.data.splits",
    "memory_splits": "tvm_mnas.training.data.memory",
    "ImageSet": "tvm_mnas.training.data.images",
    "Algorithm": "tvm_mnas.search.algorithms.by_name",
    "AlgorithmRequest": "tvm_mnas.search.algorithms.by_name",
    "Executor": "tvm_mnas.evaluation.executors.protocol",
    # Tables of a whole space
    "TableEntry": "tvm_mnas.evaluation.tables.table",
    "find_table": "tvm_mnas.evaluation.tables.files",
    "read_table": "tvm_mnas.evaluation.tables.files",
    # Samplers for an Optuna study of one's own
    "PPOSampler": "tvm_mnas.search.algorithms.sampler",
    "RegularizedEvolutionSampler": "tvm_mnas.search.algorithms.evolution",
    "distributions_of": "tvm_mnas.search.algorithms.batches",
}

__all__ = [
    "Accuracy",
    "Algorithm",
    "AlgorithmRequest",
    "Architecture",
    "DataSource",
    "DataSplits",
    "Decision",
    "DetectorArchitecture",
    "Device",
    "DeviceProfile",
    "Evaluation",
    "Executor",
    "FrontPoint",
    "ImageSet",
    "Latency",
    "LoadOptions",
    "NetworkSpace",
    "PPOSampler",
    "RegularizedEvolutionSampler",
    "Reward",
    "SearchConfig",
    "SearchResult",
    "SearchSpace",
    "TableEntry",
    "TrainTask",
    "Trainer",
    "__version__",
    "distributions_of",
    "find_space",
    "find_table",
    "memory_splits",
    "read_table",
    "resume_search",
    "run_search",
]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
