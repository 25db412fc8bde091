"""What `import tvm_mnas` offers: the names are pinned, they are loaded when used, and the stub agrees."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_mnas

ROOT = Path(__file__).resolve().parents[1]

# A name that is taken away, or added, is a change of the library's interface: see CONTRIBUTING, "Versions".
PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert tvm_mnas.__all__ == PUBLIC  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tvm_mnas, name)
    assert name in dir(tvm_mnas)
    if name != "__version__":
        assert value.__doc__, f"{name} says nothing of itself"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Devices'"):
        _ = tvm_mnas.Devices  # type: ignore[attr-defined]


def test_the_stub_names_each_where_it_is_loaded_from() -> None:
    tree = ast.parse((ROOT / "tvm_mnas" / "__init__.pyi").read_text(encoding="utf-8"))
    stub = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted({*stub, "__version__"}) == sorted(PUBLIC)
    for name, module in stub.items():
        assert name is not None and module is not None
        assert getattr(importlib.import_module(module), name) is getattr(tvm_mnas, name)


@pytest.mark.parametrize(
    "name", ["SearchConfig", "NetworkSpace", "find_space", "Device", "Trainer"]
)
def test_a_name_loads_neither_torch_nor_tvm(name: str) -> None:
    program = (
        f"import sys, tvm_mnas; tvm_mnas.{name}; "
        "print([m for m in ('torch', 'tvm', 'xgboost', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert printed == "[]\n"
