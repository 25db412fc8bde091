"""Small ONNX files as exporters write them, made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
IR = {7: 3, 9: 4, 11: 6, 13: 7, 17: 8, 21: 10}
"""The format that exporters of these operator sets wrote."""


class Net:
    """A network under construction: a convolution or two, and whatever a test puts in between."""

    def __init__(self, *, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(5)

    def node(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its outputs."""
        names = [f"{kind}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(
            helper.make_node(
                kind,
                inputs,
                names,
                name=f"the_{kind}_{len(self.nodes)}",
                domain=domain,
                **attributes,
            )
        )
        return names

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output and return its name."""
        (name,) = self.node(kind, *inputs, **attributes)
        return name

    def weight(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def drawn(self, *shape: int) -> str:
        """Add a constant of normal numbers."""
        return self.weight(
            self._rng.standard_normal(shape) / max(int(np.prod(shape[1:])), 1) ** 0.5
        )

    def conv(self, source: str, outs: int, ins: int, size: int = 3, **attributes: Any) -> str:
        settings = attributes or {"pads": [size // 2] * 4}
        return self.add(
            "Conv", source, self.drawn(outs, ins, size, size), kernel_shape=[size, size], **settings
        )

    def norm(self, source: str, channels: int) -> str:
        rng = self._rng
        numbers = [
            rng.uniform(low, high, channels) for low, high in ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2))
        ]
        return self.add("BatchNormalization", source, *map(self.weight, numbers))

    def bounded(self, source: str) -> str:
        """A ReLU6, as its version writes it."""
        if self.opset < 11:
            return self.add("Clip", source, min=0.0, max=6.0)
        return self.add("Clip", source, self.weight(0.0), self.weight(6.0))

    def classifier(self, source: str, channels: int) -> str:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", source))
        return self.add("Gemm", pooled, self.drawn(5, channels), self.weight(np.zeros(5)), transB=1)

    def model(
        self,
        outputs: Sequence[str],
        *,
        inputs: Mapping[str, tuple[int, Sequence[Any]]] | None = None,
        also_inputs: bool = False,
        domains: Sequence[str] = (),
        output_type: int = FLOAT,
    ) -> Any:
        """Return the model; `inputs` has type and shape by name, `also_inputs` lists the constants too, as of old."""
        given = inputs or {"image": (FLOAT, (1, 3, 16, 16))}
        listed = [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in given.items()
        ]
        if also_inputs:
            listed += [
                helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
                for weight in self.weights
            ]
        graph = helper.make_graph(
            self.nodes,
            "net",
            listed,
            [helper.make_tensor_value_info(name, output_type, None) for name in outputs],
            self.weights,
        )
        sets = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(name, 1) for name in domains),
        ]
        return helper.make_model(graph, opset_imports=sets, ir_version=IR.get(self.opset, 10))

    def save(self, path: Path, outputs: Sequence[str], **options: Any) -> Path:
        """Write the model and return its path."""
        onnx.save(self.model(outputs, **options), str(path))
        return path


def plain(opset: int = 17) -> tuple[Net, str]:
    """Return a network as exporters write most, and its output."""
    net = Net(opset=opset)
    features = net.bounded(net.norm(net.conv("image", 8, 3, strides=[2, 2], pads=[1] * 4), 8))
    features = net.bounded(net.conv(features, 8, 1, group=8, pads=[1] * 4))
    return net, net.classifier(net.conv(features, 12, 8, 1), 12)
