"""What an ONNX operator sees of its node: attributes and inputs, whichever version of the operator it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tvm_mnas.models.exchange.building import GraphBuilder, UnsupportedError, Value


@dataclass(frozen=True, slots=True)
class Call:
    """One node of the ONNX graph: its operator's version, attributes and inputs, and the graph to add to."""

    graph: GraphBuilder
    operator: str
    opset: int
    attributes: dict[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: int

    def input(self, index: int) -> Value:
        """Return an input that must be there."""
        value = self.optional(index)
        if value is None:
            raise UnsupportedError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> Tensor:
        """Return an input that must be the same for every image."""
        value = self.input(index)
        if not value.constant:
            raise UnsupportedError(f"input {index} depends on the image")
        return value.example

    def setting(self, name: str, index: int) -> list[Any] | None:
        """Return what older versions have as an attribute and newer ones as a constant input, None if neither."""
        if name in self.attributes:
            found = self.attributes[name]
            return list(found) if isinstance(found, list) else [found]
        if self.optional(index) is None:
            return None
        values: list[Any] = self.constant(index).reshape(-1).tolist()
        return values

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a text."""
        found = self.attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else str(found)

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """Return an attribute that is a list of whole numbers."""
        return [int(number) for number in self.attributes.get(name, default)]

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a number."""
        return float(self.attributes.get(name, default))
