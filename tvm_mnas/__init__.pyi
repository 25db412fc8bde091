# What `__init__.py` loads lazily, for type checkers.
from tvm_mnas.config import SearchConfig as SearchConfig
from tvm_mnas.devices.core.latency import Latency as Latency
from tvm_mnas.devices.core.profile import DeviceProfile as DeviceProfile
from tvm_mnas.evaluation.executors.protocol import Executor as Executor
from tvm_mnas.evaluation.results import Evaluation as Evaluation
from tvm_mnas.evaluation.tables.files import find_table as find_table
from tvm_mnas.evaluation.tables.files import read_table as read_table
from tvm_mnas.evaluation.tables.table import TableEntry as TableEntry
from tvm_mnas.evaluation.trainers import Trainer as Trainer
from tvm_mnas.evaluation.trainers import TrainTask as TrainTask
from tvm_mnas.search.algorithms.batches import distributions_of as distributions_of
from tvm_mnas.search.algorithms.by_name import Algorithm as Algorithm
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest as AlgorithmRequest
from tvm_mnas.search.algorithms.evolution import (
    RegularizedEvolutionSampler as RegularizedEvolutionSampler,
)
from tvm_mnas.search.algorithms.sampler import PPOSampler as PPOSampler
from tvm_mnas.search.result import FrontPoint as FrontPoint
from tvm_mnas.search.result import SearchResult as SearchResult
from tvm_mnas.search.reward import Reward as Reward
from tvm_mnas.space.architecture import Architecture as Architecture
from tvm_mnas.space.catalogue import find_space as find_space
from tvm_mnas.space.detector import DetectorArchitecture as DetectorArchitecture
from tvm_mnas.space.network_space import NetworkSpace as NetworkSpace
from tvm_mnas.space.space import Decision as Decision
from tvm_mnas.space.space import SearchSpace as SearchSpace
from tvm_mnas.training.accuracy import Accuracy as Accuracy
from tvm_mnas.training.data.images import ImageSet as ImageSet
from tvm_mnas.training.data.images import LoadOptions as LoadOptions
from tvm_mnas.training.data.memory import memory_splits as memory_splits
from tvm_mnas.training.data.sources import DataSource as DataSource
from tvm_mnas.training.data.splits import DataSplits as DataSplits
from tvm_mnas.workflows.oracle import Device as Device
from tvm_mnas.workflows.search import resume_search as resume_search
from tvm_mnas.workflows.search import run_search as run_search

__version__: str
