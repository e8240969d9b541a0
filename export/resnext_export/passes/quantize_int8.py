"""Quantize a float32 graph to int8 (Q/DQ) for one runtime, with calibrated ranges.

ONNX Runtime's quantizer does the rewriting; `FORMS` says what layout each runtime wants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from resnext.errors import BadInput, MissingRequirement, UsageError
from resnext.storage import others_scratch_folder
from resnext_export.options import Runtime as Runtime

from .base import PassResult
from .graph import float_tensors, kept_nodes
from .quantized import (
    check_calibrated,
    check_kept,
    check_quantized,
    convolution_weights,
    finished,
    range_of,
    shortcuts,
)

if TYPE_CHECKING:
    from resnext_export.calibration.ranges import Ranges


@dataclass(frozen=True)
class Form:
    """The Q/DQ layout that a runtime wants.

    Attributes:
        operators: operators whose inputs are quantized.
        outputs: quantize their outputs, too; a Relu behind one becomes part of its rounding.
        symmetric: activations are int8 around 0; else uint8 with a zero point.
        bias: biases are int32; else they are kept.
        seven_bits: weights are within -64 to 64.
    """

    operators: tuple[str, ...]
    outputs: bool
    symmetric: bool
    bias: bool
    seven_bits: bool


#: The classifier stays float32 everywhere: it is 0.05 % of ResNeXt-50's multiply-accumulates, and
#: no later layer averages its rounding out. Seven bits, because processors with AVX2 or AVX-512 but
#: no VNNI add two products in 16 bits, which 255 * 127 * 2 overflows and 255 * 64 * 2 does not: in
#: seeded ResNeXt-50's stem 1.4 % of those sums do. A file would be proven here and wrong there.
FORMS: Mapping[Runtime, Form] = MappingProxyType(
    {
        # TensorRT fuses a convolution with the bias, addition and Relu behind it and with the Q
        # behind those, so a convolution's own output is quantized only if it is the shortcut. Its
        # parser refuses int32 biases.
        "trt": Form(("Conv",), outputs=False, symmetric=True, bias=False, seven_bits=False),
        # QLinearConv and QLinearAdd compute in integers from end to end.
        "ort": Form(
            ("Conv", "Relu", "Add", "MaxPool"),
            outputs=True,
            symmetric=False,
            bias=True,
            seven_bits=True,
        ),
        # As above: with only the convolutions' inputs quantized, OpenVINO ran ResNeXt-50 and
        # Fashion-MNIST's network 7 to 9 % slower, at the same accuracy.
        "openvino": Form(
            ("Conv", "Relu", "Add", "MaxPool"),
            outputs=True,
            symmetric=False,
            bias=True,
            seven_bits=True,
        ),
    }
)


@dataclass(frozen=True)
class QuantizeInt8:
    """Quantize the convolutions to int8 for one runtime.

    Weights are int8 around 0 with a scale per output channel (axis 0). Node names, metadata, inputs
    and outputs are kept; for CPUs no Relu remains behind a convolution or addition. The same model
    and options give the same bytes.

    Attributes:
        ranges: calibrated on the model, or on the same weights before their groups were merged.
        runtime: the runtime that the graph is for.
        keep: names of weighted nodes that stay float32, together with the nodes that follow them
            (`kept_nodes`). Only a tensor that something quantized reads or, for CPUs, writes has
            Q/DQ, so that nothing is rounded between neighbors that are kept.
    """

    ranges: Ranges
    runtime: Runtime
    keep: Collection[str] = ()

    def requires(self, proto: onnx.ModelProto) -> None:
        """Refuse a graph that these ranges cannot quantize.

        Raises:
            UsageError: an unknown runtime, or ``keep`` names an unknown node.
            BadInput: ``proto`` is already quantized, not float32, has other weights than
                ``ranges``, or a convolution whose weight is not a finite constant of the file.
        """
        if self.runtime not in FORMS:
            raise UsageError(f"unknown runtime {self.runtime!r}; known: {', '.join(FORMS)}")
        kept_nodes(proto.graph, self.keep)  # refuses unknown names
        check_calibrated(proto, self.ranges)
        for name, weight in convolution_weights(proto).items():
            if weight.dtype != np.float32:
                # The quantizer takes float16 scales below 6e-5 for zero, and their channels, too.
                raise BadInput(
                    f"convolution {name!r} is {weight.dtype}", hint="quantize the float32 export"
                )

    def apply(self, proto: onnx.ModelProto) -> PassResult:
        """Quantize a copy.

        Raises:
            BadInput: ``proto`` has tensors that ``ranges`` lacks.
            MissingRequirement: the temporary folder, which takes a copy of the model, is not
                writable.
        """
        form = FORMS[self.runtime]
        floats = {*float_tensors(proto), *(tensor.name for tensor in proto.graph.initializer), ""}
        named = [node for node in proto.graph.node if node.op_type in form.operators]
        # With a dynamic batch, baked preprocessing adds up shapes, in integers.
        kept = kept_nodes(proto.graph, self.keep)
        nodes = [
            node
            for node in named
            if floats.issuperset(node.input) and tuple(node.output) not in kept
        ]
        extra = [] if form.outputs else shortcuts(proto, self.keep)
        constants = {tensor.name for tensor in proto.graph.initializer}
        tensors = (
            name for node in nodes for name in (*node.input, *(node.output if form.outputs else ()))
        )
        ends = {
            name: range_of(name, proto, self.ranges)
            for name in (*tensors, *extra)
            if name and name not in constants
        }
        excluded = [node.name for node in named if node not in nodes]
        try:
            with others_scratch_folder():
                quantizer = _quantizer(proto, form, ends, excluded)
        except OSError as exc:  # it writes the model to a temporary file
            raise MissingRequirement(
                f"no room for a temporary copy of the graph: {exc.strerror or exc}",
                hint="set TMPDIR",
            ) from exc
        for name in extra:
            quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        changed = (node.name for node in nodes if node.op_type == "Conv")
        return PassResult(finished(quantizer.model.model, proto), tuple(changed))

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """See `check_quantized`."""
        names = [name for name in convolution_weights(before) if name not in self.keep]
        check_quantized(after, names, TensorProto.INT8)
        check_kept(after, self.keep)
        return 0.0


def _quantizer(
    proto: onnx.ModelProto,
    form: Form,
    ends: Mapping[str, tuple[float, float]],
    excluded: list[str],
) -> QDQQuantizer:
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ends.items()
    }
    return QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=form.seven_bits,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if form.symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=excluded,
        op_types_to_quantize=list(form.operators),
        extra_options={
            "ActivationSymmetric": form.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": form.bias,
            "OpTypesToExcludeOutputQuantization": [] if form.outputs else list(form.operators),
        },
    )
