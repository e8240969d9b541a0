"""Small ONNX classifiers as other tools write them, and files that are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10


class Graph:
    """A graph under construction: tensors by name, with seeded weights.

    Args:
        seed: of the weights.
        dtype: their element type.
    """

    def __init__(self, seed: int = 0, dtype: Any = np.float32) -> None:
        self._random, self._dtype = np.random.default_rng(seed), dtype
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A stored tensor of random values that keep the size of activations."""
        fan = int(np.prod(shape[1:])) or 1
        values = self._random.standard_normal(shape) * (scale or np.sqrt(2 / fan))
        return self.store(values.astype(self._dtype))

    def store(self, values: Any) -> str:
        """A stored tensor."""
        name = f"w{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node, and the name of its output."""
        name = f"{op.lower()}{len(self.nodes)}"
        attributes = {"name": name, "domain": domain, **attributes}
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def model(
        self,
        shape: Sequence[int | str],
        outputs: Sequence[str],
        *,
        takes: int = TensorProto.FLOAT,
        gives: int = TensorProto.FLOAT,
        opset: int = 17,
        classes: Sequence[int | str] = ("N", CLASSES),
        domains: Sequence[str] = (),
    ) -> onnx.ModelProto:
        """The model with the input ``x``."""
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [helper.make_tensor_value_info("x", takes, list(shape))],
            [helper.make_tensor_value_info(name, gives, list(classes)) for name in outputs],
            self.stored,
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="elsewhere")
        model.ir_version = 4 if opset < 10 else 8
        return model


def _head(graph: Graph, features: str, channels: int) -> str:
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", features))
    return graph.add("Gemm", flat, graph.weight(CLASSES, channels), graph.weight(CLASSES), transB=1)


def _convolved(graph: Graph, features: str = "x", channels: int = 3, stride: int = 2) -> str:
    weight, bias = graph.weight(8, channels, 3, 3), graph.weight(8, scale=0.1)
    out = graph.add("Conv", features, weight, bias, strides=[stride] * 2, pads=[1] * 4)
    return graph.add("Relu", out)


def _depthwise(graph: Graph, features: str) -> str:
    """MobileNet's block, with a batch norm that is not folded."""
    out = graph.add("Conv", features, graph.weight(8, 1, 3, 3), group=8, pads=[1] * 4)
    parts = [graph.store(np.abs(np.random.default_rng(5).standard_normal(8)).astype(np.float32))]
    parts += [graph.weight(8, scale=0.1), graph.weight(8, scale=0.1), parts[0]]
    out = graph.add("BatchNormalization", out, *parts)
    low, high = graph.store(np.float32(0)), graph.store(np.float32(6))
    return graph.add("Clip", out, low, high)


def mobile(shape: Sequence[int | str] = ("N", 3, 32, 32), **how: Any) -> onnx.ModelProto:
    """Depthwise convolutions and batch norms, as MobileNet has them."""
    graph = Graph()
    out = _depthwise(graph, _convolved(graph))
    return graph.model(shape, [_head(graph, out, 8)], **how)


def nhwc() -> onnx.ModelProto:
    """Keras's order of axes, with a softmax at the end."""
    graph = Graph(1)
    out = _convolved(graph, graph.add("Transpose", "x", perm=[0, 3, 1, 2]))
    logits = _head(graph, out, 8)
    return graph.model(("N", 24, 20, 3), [graph.add("Softmax", logits, axis=-1)])


def pixels() -> onnx.ModelProto:
    """Uint8 pixels, normalized in the graph."""
    graph = Graph(2)
    out = graph.add("Cast", "x", to=TensorProto.FLOAT)
    out = graph.add("Mul", out, graph.store(np.float32(1 / 64)))
    return graph.model(
        ("N", 3, 16, 16), [_head(graph, _convolved(graph, out), 8)], takes=TensorProto.UINT8
    )


def fixed_batch() -> onnx.ModelProto:
    """Batch 4, and no other."""
    return mobile((4, 3, 16, 16), classes=(4, CLASSES))


def rows() -> onnx.ModelProto:
    """A perceptron on rows of 12 values."""
    graph = Graph(3)
    out = graph.add("Relu", graph.add("MatMul", "x", graph.weight(12, 16)))
    return graph.model(("N", 12), [graph.add("MatMul", out, graph.weight(16, CLASSES))])


def old() -> onnx.ModelProto:
    """Opset 9, a Clip with attributes, and the shape of the Reshape computed in the graph."""
    graph = Graph(4)
    out = graph.add("Clip", _convolved(graph), min=0.0, max=6.0)
    out = graph.add("MaxPool", out, kernel_shape=[2, 2], strides=[2, 2])
    batch = graph.add("Gather", graph.add("Shape", out), graph.store(np.int64(0)), axis=0)
    sizes = [
        graph.add("Unsqueeze", batch, axes=[0]),
        graph.add("Constant", value=numpy_helper.from_array(np.array([-1], np.int64))),
    ]
    flat = graph.add("Reshape", out, graph.add("Concat", *sizes, axis=0))
    return graph.model(
        ("N", 3, 16, 16), [graph.add("MatMul", flat, graph.weight(128, CLASSES))], opset=9
    )


def attention() -> onnx.ModelProto:
    """A transformer's block on patches, with an expanded class token."""
    graph = Graph(6)
    out = graph.add("Conv", "x", graph.weight(16, 3, 4, 4), strides=[4, 4])
    out = graph.add("Reshape", out, graph.store(np.array([0, 16, -1], np.int64)))
    out = graph.add("Transpose", out, perm=[0, 2, 1])
    batch = graph.add("Slice", graph.add("Shape", "x"), *_ints(graph, [0], [1]))
    size = graph.add("Concat", batch, graph.store(np.array([1, 16], np.int64)), axis=0)
    token = graph.add("Expand", graph.weight(1, 1, 16, scale=1.0), size)
    out = graph.add("Concat", token, out, axis=1)
    scale, shift = graph.store(np.ones(16, np.float32)), graph.store(np.zeros(16, np.float32))
    normal = graph.add("LayerNormalization", out, scale, shift, axis=-1)
    query, key, value = (graph.add("MatMul", normal, graph.weight(16, 16)) for _ in range(3))
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 2, 1]))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    out = graph.add("Gelu", graph.add("Add", out, mixed))
    first = graph.add("Gather", out, graph.store(np.int64(0)), axis=1)
    return graph.model(
        ("N", 3, 16, 16), [graph.add("MatMul", first, graph.weight(16, CLASSES))], opset=20
    )


def _ints(graph: Graph, *values: list[int]) -> list[str]:
    return [graph.store(np.array(each, np.int64)) for each in values]


def half() -> onnx.ModelProto:
    """Weights, input and output in float16."""
    graph = Graph(7, np.float16)
    return graph.model(
        ("N", 3, 16, 16),
        [_head(graph, _convolved(graph), 8)],
        takes=TensorProto.FLOAT16,
        gives=TensorProto.FLOAT16,
    )


def quantized() -> onnx.ModelProto:
    """Int8 by Q/DQ nodes."""
    graph = Graph(8)
    steps, zero = graph.store(np.float32(0.02)), graph.store(np.int8(0))
    out = graph.add("DequantizeLinear", graph.add("QuantizeLinear", "x", steps, zero), steps, zero)
    weight = graph.store(np.random.default_rng(8).integers(-127, 128, (8, 3, 3, 3), np.int8))
    weight = graph.add("DequantizeLinear", weight, graph.store(np.float32(0.003)), zero)
    out = graph.add("Relu", graph.add("Conv", out, weight, strides=[2, 2]))
    return graph.model(("N", 3, 16, 16), [_head(graph, out, 8)])


def open_size() -> onnx.ModelProto:
    """Height and width open, as fully convolutional networks have them."""
    return mobile(("N", 3, "height", "width"))


#: Classifiers that every command takes.
CLASSIFIERS: Mapping[str, Callable[[], onnx.ModelProto]] = MappingProxyType(
    {
        "mobile": mobile,
        "nhwc": nhwc,
        "pixels": pixels,
        "fixed batch": fixed_batch,
        "rows": rows,
        "old": old,
        "attention": attention,
        "half": half,
        "quantized": quantized,
    }
)


def two_outputs() -> onnx.ModelProto:
    """Logits, and the same again."""
    graph = Graph()
    logits = _head(graph, _convolved(graph), 8)
    return graph.model(("N", 3, 16, 16), [logits, graph.add("Neg", logits)])


def two_inputs() -> onnx.ModelProto:
    """An image and a mask."""
    model = mobile()
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1])
    model.graph.input.append(mask)
    return model


def custom() -> onnx.ModelProto:
    """An operator of another domain."""
    graph = Graph()
    out = graph.add("FusedGelu", _convolved(graph), domain="com.example")
    return graph.model(("N", 3, 16, 16), [_head(graph, out, 8)], domains=["com.example"])


def random() -> onnx.ModelProto:
    """Noise on the logits."""
    graph = Graph()
    logits = _head(graph, _convolved(graph), 8)
    noise = graph.add("RandomNormalLike", logits)
    return graph.model(("N", 3, 16, 16), [graph.add("Add", logits, noise)])


def training() -> onnx.ModelProto:
    """Dropout left on."""
    graph = Graph()
    logits = _head(graph, _convolved(graph), 8)
    rate, on = graph.store(np.float32(0.5)), graph.store(np.bool_(True))
    return graph.model(("N", 3, 16, 16), [graph.add("Dropout", logits, rate, on)])


def sequence() -> onnx.ModelProto:
    """A sequence of tables, as scikit-learn's converter gives probabilities."""
    graph = Graph()
    out = graph.add("SequenceConstruct", _head(graph, _convolved(graph), 8))
    model = graph.model(("N", 3, 16, 16), [out])
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", CLASSES])
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(kind))
    return model


def no_batch() -> onnx.ModelProto:
    """One image without a batch dimension."""
    graph = Graph()
    out = graph.add("Unsqueeze", "x", graph.store(np.array([0], np.int64)))
    logits = _head(graph, _convolved(graph, out), 8)
    flat = graph.add("Squeeze", logits, graph.store(np.array([0], np.int64)))
    return graph.model((3, 16, 16), [flat], classes=(CLASSES,))


def hard_batch() -> onnx.ModelProto:
    """An open batch, and a Reshape that fixes it."""
    graph = Graph()
    pooled = graph.add("GlobalAveragePool", _convolved(graph))
    flat = graph.add("Reshape", pooled, graph.store(np.array([1, 8], np.int64)))
    return graph.model(("N", 3, 16, 16), [graph.add("MatMul", flat, graph.weight(8, CLASSES))])


def huge() -> onnx.ModelProto:
    """A few bytes that ask for terabytes."""
    graph = Graph()
    many = graph.store(np.array([1 << 20, 1 << 20, 1, 1], np.int64))
    wide = graph.add("ConstantOfShape", many)
    out = graph.add("Add", "x", graph.add("ReduceMax", wide, keepdims=1))
    return graph.model(("N", 3, 16, 16), [_head(graph, _convolved(graph, out), 8)])


def branch() -> onnx.ModelProto:
    """An If."""
    graph = Graph()
    logits = _head(graph, _convolved(graph), 8)
    kind = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", CLASSES])
    body = helper.make_graph([helper.make_node("Neg", [logits], ["z"])], "body", [], [kind])
    yes = graph.store(np.bool_(True))
    return graph.model(("N", 3, 16, 16), [graph.add("If", yes, then_branch=body, else_branch=body)])


def doubles() -> onnx.ModelProto:
    """Weights and input in float64."""
    graph = Graph(0, np.float64)
    return graph.model(
        ("N", 12),
        [graph.add("MatMul", "x", graph.weight(12, CLASSES))],
        takes=TensorProto.DOUBLE,
        gives=TensorProto.DOUBLE,
    )


#: Files that no command takes, and what is said about each.
REFUSED: Mapping[str, tuple[Callable[[], onnx.ModelProto], str]] = MappingProxyType(
    {
        "two outputs": (two_outputs, r"has 2 outputs \(gemm\d, neg\d\).*extract_model"),
        "two inputs": (two_inputs, r"has 2 inputs \(x, mask\)"),
        "custom": (custom, r"operators that ONNX does not define: com\.example\.FusedGelu"),
        "random": (random, r"'randomnormallike\d' is RandomNormalLike: two runs would differ"),
        "training": (training, r"'dropout\d' is Dropout in training mode; .*eval\(\)"),
        "sequence": (sequence, r"output 'sequenceconstruct\d' is a sequence.*zipmap"),
        "no batch": (no_batch, r"input 'x' has 3 dimensions; .*N x C x H x W"),
        "hard batch": (hard_batch, r"'matmul\d' .*1 values|has shape 1 x 10 for 2 images"),
        "huge": (huge, r"'constantofshape0' .*1048576x1048576x1x1"),
        "branch": (branch, r"'if\d' is If, which runs a graph of its own"),
        "doubles": (doubles, r"input 'x' is float64, and images are float32"),
        "opset 6": (lambda: mobile(opset=6), r"opset 6, and 7 to 25 are read"),
    }
)


def runtimes_for(precision: str) -> tuple[str, ...]:
    """Runtimes that compute a file of ``precision`` on this processor; OpenVINO refuses float16
    where there are no instructions for it.
    """
    from resnext.runtimes.openvino.library import shared_core

    able = shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    refused = precision == "fp16" and "FP16" not in able
    return ("ort-cpu", *(() if refused else ("openvino",)), "onnx-reference")


def write(model: onnx.ModelProto, path: Path) -> Path:
    """Write ``model`` to ``path``."""
    path.write_bytes(model.SerializeToString())
    return path


def write_external(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> Path:
    """Write ``model`` with its tensors in another file of the folder."""
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path
