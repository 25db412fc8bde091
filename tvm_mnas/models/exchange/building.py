"""A torch network under construction, operator by operator, whatever it is read from.

Each operator is run on an example as it is added, so that every shape is known to the next one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn


class UnsupportedError(Exception):
    """An operator, or the way it is used, has no torch network here; the text says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What flows along an edge: its `example`, and its `node`, None for a constant."""

    example: Tensor
    node: fx.Node | None = None

    @property
    def constant(self) -> bool:
        """Whether it is the same for every image."""
        return self.node is None


class GraphBuilder:
    """A torch.fx graph of modules and functions under construction."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._constants: dict[int, fx.Node] = {}
        self._count = 0

    def placeholder(self, example: Tensor) -> Value:
        """Return the network's input."""
        return Value(example, self._graph.placeholder("images"))

    def module(self, module: nn.Module, *inputs: Value) -> Value:
        """Return what `module` makes of `inputs`."""
        module.eval()
        with torch.no_grad():
            example: Tensor = module(*(value.example for value in inputs))
        if all(value.constant for value in inputs):
            return Value(example)
        name = self._name("layer")
        self._root.add_module(name, module)
        return Value(example, self._graph.call_module(name, tuple(map(self._node, inputs))))

    def function(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        keywords: Mapping[str, Any] = MappingProxyType({}),
    ) -> Value:
        """Return the tensor that `function`, which changes nothing in place, makes of `arguments`.

        Arguments are values, sequences of them, and whatever else it takes; `keywords` has no values.
        """
        (value,) = self.results(function, *arguments, keywords=keywords)
        return value

    def results(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        keywords: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[Value, ...]:
        """Return what `function` makes in one tensor or several, as `function` does it."""
        with torch.no_grad():
            made = function(*_mapped(arguments, lambda value: value.example), **keywords)
        examples = [made] if isinstance(made, Tensor) else list(made)
        if all(value.constant for value in _values(arguments)):
            return tuple(Value(example) for example in examples)
        nodes = tuple(_mapped(arguments, self._node))
        call = self._graph.call_function(function, nodes, dict(keywords))
        if isinstance(made, Tensor):
            return (Value(made, call),)
        return tuple(
            Value(example, self._graph.call_function(operator.getitem, (call, index)))
            for index, example in enumerate(examples)
        )

    def finish(self, outputs: Sequence[Value]) -> fx.GraphModule:
        """Return the network with these outputs: one tensor, or a tuple of them."""
        nodes = tuple(map(self._node, outputs))
        self._graph.output(nodes[0] if len(nodes) == 1 else nodes)
        network = fx.GraphModule(self._root, self._graph)
        network.graph.eliminate_dead_code()
        network.delete_all_unused_submodules()
        network.recompile()
        return network.eval()

    def _node(self, value: Value) -> fx.Node:
        if value.node is not None:
            return value.node
        node = self._constants.get(id(value.example))
        if node is None:
            name = self._name("constant")
            self._root.register_buffer(name, value.example)
            node = self._graph.get_attr(name)
            self._constants[id(value.example)] = node
        return node

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def _values(arguments: Any) -> list[Value]:
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, (tuple, list)):
        return [value for argument in arguments for value in _values(argument)]
    return []


def _mapped(arguments: Any, change: Callable[[Value], Any]) -> Any:
    if isinstance(arguments, Value):
        return change(arguments)
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(_mapped(argument, change) for argument in arguments)
    return arguments
