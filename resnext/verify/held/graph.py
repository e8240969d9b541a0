"""A model file's graph in one vocabulary, whatever its format.

A reader turns each node into a `Value` and folds constants. It judges only what its format alone
can express; whether the graph is that of the network is for `network` to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from numpy.typing import NDArray


class OddGraph(Exception):
    """A file is not as an export of the network has it; the message names the node or layer."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant.

    Attributes:
        name: in the file.
        array: its values, of the stored element type.
        widened: integers that a node casts to floating point.
    """

    name: str
    array: NDArray[Any]
    widened: bool = False


@dataclass(frozen=True, eq=False)
class Dequantized:
    """A constant that is stored in few bits: (stored - zero) * scale.

    Attributes:
        name: of the stored tensor.
        stored: values as in the file.
        zero: zero points, one for each output channel or one for all; flat.
        scale: in the same form.
    """

    name: str
    stored: NDArray[Any]
    zero: NDArray[Any]
    scale: NDArray[Any]


Fixed: TypeAlias = "Constant | Dequantized"


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the input.

    Attributes:
        op: what computes it, in the vocabulary of `VOCABULARY`.
        node: name of the node in the file.
        inputs: the tensors that it is computed from.
        fixed: the constants that it is computed from; a missing bias is None.
        facts: attributes of the operator.
    """

    op: str
    node: str
    inputs: tuple[Value, ...] = ()
    fixed: tuple[Fixed | None, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


#: What a `Value` can be, with its facts.
VOCABULARY: Mapping[str, tuple[str, ...]] = {
    "Input": ("dtype", "shape"),
    "Cast": ("to",),
    "Divide": (),
    "Subtract": (),
    "Transpose": ("order",),
    "Conv": ("strides", "pads", "dilations", "groups"),
    "Relu": (),
    "Add": (),
    "MaxPool": ("kernel", "strides", "pads", "dilations", "ceil"),
    "Mean": ("axes", "keep"),
    "Reshape": ("shape", "copies"),
    "Gather": ("axis",),
    "Gemm": ("alpha", "transposed"),
    "Quantize": ("dtype", "tensor"),
    "Quantized": ("dtype", "tensor", "scale", "zero"),
    "Shape": (),
    "Batch": (),
    "Rows": ("factor", "offset"),
}


@dataclass(frozen=True)
class Graph:
    """A file's graph.

    Attributes:
        inputs: the inputs by name.
        outputs: by name, each with the element type and shape that the file declares.
        metadata: texts in the file, by key.
        opset: ONNX operator set; None for other formats.
    """

    inputs: Mapping[str, Value]
    outputs: Mapping[str, tuple[Value, str, tuple[int | None, ...]]]
    metadata: Mapping[str, str]
    opset: int | None


class Operation(ABC):
    """A node of a file, with strict access to its attributes.

    Attributes:
        noun: the format's word for a node.
        title: name of the node.
    """

    noun: ClassVar[str]
    title: str

    @abstractmethod
    def facts(self, **defaults: Any) -> dict[str, Any]:
        """The attributes, which must be among ``defaults``."""

    def only(self, **wanted: Any) -> None:
        """Each attribute must have the value in ``wanted``, which is also its default."""
        for name, value in self.facts(**wanted).items():
            if value != wanted[name]:
                raise OddGraph(
                    f"{name} of {self.noun} {self.title} is {value!r}, and {wanted[name]!r} in an"
                    " export"
                )

    def value(self, op: str, inputs: Sequence[Any], *fixed: Any, **facts: Any) -> Value:
        """A value that this node computes."""
        if not all(isinstance(term, Value) for term in inputs):
            raise OddGraph(
                f"{self.noun} {self.title} computes with a constant in place of a tensor"
            )
        if any(isinstance(term, Value) for term in fixed):
            raise OddGraph(f"a weight or bias of {self.noun} {self.title} is computed, not stored")
        return Value(op, self.title, tuple(inputs), tuple(fixed), facts)


def rank(value: Value) -> int:
    """Number of dimensions."""
    while value.op not in ("Reshape", "Input"):
        value = value.inputs[0]
    return len(value.facts["shape"])


def reshaped(shape: NDArray[Any], old: tuple[int, ...], *, copies: bool) -> tuple[int, ...]:
    """The dimensions that a Reshape to ``shape`` gives a constant; ``copies``: 0 keeps one."""
    return tuple(
        old[index] if size == 0 and copies and index < len(old) else int(size)
        for index, size in enumerate(shape.ravel())
    )


def index_rows(value: Value, other: Fixed | Value) -> Value | None:
    """``value`` plus a constant, if it is an index of rows; None if it is something else."""
    if value.op == "Rows" and isinstance(other, Constant):
        return Value(
            "Rows",
            value.node,
            value.inputs,
            facts={**value.facts, "offset": value.facts["offset"] + other.array},
        )
    return None
