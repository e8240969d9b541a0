"""An int8 ONNX graph (Q/DQ form) from a floating-point one and its calibration; each runtime wants
its own.

ONNX Runtime's quantizer does the rewriting; what each runtime wants stands in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from resnext.errors import BadInput, MissingRequirement, UsageError, first_line
from resnext_export.calibration.collect import Ranges, float_tensors, refuse_quantized
from resnext_export.recipe import Runtime as Runtime


@dataclass(frozen=True)
class Form:
    """How a runtime wants its int8 graphs.

    Attributes:
        operators: kinds of nodes whose inputs are quantized.
        outputs: their outputs are too, and a Relu behind one becomes part of its rounding.
        symmetric: activations are int8 around 0; else uint8 with a zero point.
        bias: biases are int32; else they stay as they are.
        seven_bits: weights are within -64 to 64.
    """

    operators: tuple[str, ...]
    outputs: bool
    symmetric: bool
    bias: bool
    seven_bits: bool


#: The classifier stays float32 everywhere: it is 0.05 % of ResNeXt-50's multiply-accumulates, and
#: nothing behind it could even its rounding out. Seven bits, because processors with AVX2 or
#: AVX-512 and no VNNI sum two products in 16 bits, which 255 * 127 * 2 overflows and 255 * 64 * 2
#: does not: in seeded ResNeXt-50's stem 1.4 % of those sums. A file would be proven here and wrong
#: there.
FORMS: Mapping[Runtime, Form] = MappingProxyType(
    {
        # TensorRT fuses a convolution with the bias, addition and Relu behind it and with the Q
        # behind those, so a convolution's own output is quantized only where it is the shortcut.
        # Its parser refuses int32 biases.
        "trt": Form(("Conv",), outputs=False, symmetric=True, bias=False, seven_bits=False),
        # QLinearConv and QLinearAdd are integers all over.
        "ort": Form(
            ("Conv", "Relu", "Add", "MaxPool"),
            outputs=True,
            symmetric=False,
            bias=True,
            seven_bits=True,
        ),
        # The same: with convolutions' inputs alone quantized, OpenVINO ran ResNeXt-50 and
        # Fashion-MNIST's network 7 to 9 % slower, and was right as often.
        "openvino": Form(
            ("Conv", "Relu", "Add", "MaxPool"),
            outputs=True,
            symmetric=False,
            bias=True,
            seven_bits=True,
        ),
    }
)


def quantized_from_onnx(
    proto: onnx.ModelProto, ranges: Ranges, runtime: Runtime
) -> onnx.ModelProto:
    """Quantize the convolutions of ``proto`` for ``runtime``.

    Weights are int8 around 0 with a scale for each output channel (axis 0). Names of nodes,
    metadata, inputs and outputs stay as they are; for CPUs no Relu is left behind a convolution or
    addition. The same arguments give the same bytes.

    Args:
        proto: a float32 model, weights inside; left as it is.
        ranges: what `calibrate` found for it, or for the same weights before their groups were
            merged.
        runtime: what the graph is for.

    Returns:
        A copy that shares no memory with ``proto``.

    Raises:
        UsageError: an unknown runtime.
        BadInput: ``proto`` is quantized already, not float32, of other weights than ``ranges``, has
            tensors that ``ranges`` lacks, or a convolution whose weight is no constant of the file
            or not finite.
        MissingRequirement: the temporary folder, which takes a copy of the model, cannot be written
            to.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    if runtime not in FORMS:
        raise UsageError(f"unknown runtime {runtime!r}; known: {', '.join(FORMS)}")
    form = FORMS[runtime]
    check_calibrated(proto, ranges)
    weights = convolution_weights(proto)
    if wrong := [name for name, weight in weights.items() if weight.dtype != np.float32]:
        # Its quantizer takes float16 scales under 6e-5 for zero, and the channels with them.
        raise BadInput(
            f"convolution {wrong[0]!r} is {weights[wrong[0]].dtype}; quantize the float32 export"
        )
    floats = {*float_tensors(proto), *(tensor.name for tensor in proto.graph.initializer), ""}
    named = [node for node in proto.graph.node if node.op_type in form.operators]
    # Where the batch is open, baked preprocessing adds up shapes, in integers.
    nodes = [node for node in named if floats.issuperset(node.input)]
    marked = [] if form.outputs else shortcuts(proto)
    constants = {tensor.name for tensor in proto.graph.initializer}
    read = (
        name for node in nodes for name in (*node.input, *(node.output if form.outputs else ()))
    )
    ends = {
        name: range_of(name, proto, ranges)
        for name in (*read, *marked)
        if name and name not in constants
    }
    try:
        quantizer = QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=form.seven_bits,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if form.symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax,
                {
                    name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                    for name, (low, high) in ends.items()
                },
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in named if node not in nodes],
            op_types_to_quantize=list(form.operators),
            extra_options={
                "ActivationSymmetric": form.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": form.bias,
                "OpTypesToExcludeOutputQuantization": [] if form.outputs else list(form.operators),
            },
        )
    except OSError as exc:  # it passes the model through a temporary file
        raise MissingRequirement(
            f"no room for a temporary copy of the graph: {exc.strerror or exc}; set TMPDIR"
        ) from exc
    for name in marked:
        quantizer.quantize_activation_tensor(name)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return finished(quantizer.model.model, proto)


def check_calibrated(proto: onnx.ModelProto, ranges: Ranges) -> None:
    """Check that ``ranges`` may serve for ``proto``, and that this is not quantized already.

    Raises:
        BadInput: it is, or its metadata names other weights.
    """
    refuse_quantized(proto, "the graph")
    named = {prop.key: prop.value for prop in proto.metadata_props}.get("resnext.weights_sha256")
    if named and ranges.weights_sha256 and named != ranges.weights_sha256:
        raise BadInput(
            f"the calibration is of weights {ranges.weights_sha256[:12]}, the graph of"
            f" {named[:12]}; calibrate this graph"
        )


def convolution_weights(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The weight (O x I/groups x kernel) of each Conv by its name, in graph order.

    Raises:
        BadInput: there is none; a weight is no constant of the file, is external, or holds NaN or
            infinity.
    """
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        tensor = held.get(node.input[1])
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            raise BadInput(
                f"the weight of convolution {node.name!r} is no constant inside the file; export it"
                " as an initializer"
            )
        weight = numpy_helper.to_array(tensor)
        if not np.isfinite(weight).all():
            raise BadInput(f"the weight of convolution {node.name!r} holds NaN or infinity")
        found[node.name] = weight
    if not found:
        raise BadInput("the graph has no convolution, so there is nothing to quantize")
    return found


def range_of(name: str, proto: onnx.ModelProto, ranges: Ranges) -> tuple[float, float]:
    """The calibrated range of tensor ``name``; what a Cast gives has the range of what it reads.

    Raises:
        BadInput: it was not calibrated.
    """
    casts = {node.output[0]: node.input[0] for node in proto.graph.node if node.op_type == "Cast"}
    known = name
    while known not in ranges.ranges and known in casts:
        known = casts[known]
    if known not in ranges.ranges:
        raise BadInput(
            f"the calibration has no range for tensor {name!r}: it is of another graph; calibrate"
            " this one"
        )
    return ranges.ranges[known]


def shortcuts(proto: onnx.ModelProto) -> list[str]:
    """Outputs of convolutions that are an addition's shortcut: where both of its inputs are, the
    one made first.
    """
    made = {
        name: index
        for index, node in enumerate(proto.graph.node)
        if node.op_type == "Conv"
        for name in node.output
    }
    sums = (
        [name for name in node.input if name in made]
        for node in proto.graph.node
        if node.op_type == "Add"
    )
    return [name for inputs in sums for name in sorted(inputs, key=lambda name: made[name])[:-1]]


def finished(quantized: onnx.ModelProto, proto: onnx.ModelProto) -> onnx.ModelProto:
    """``quantized`` with the producer and metadata of ``proto``, its shapes noted anew, and
    checked.

    Raises:
        BadInput: it is not valid ONNX.
    """
    quantized.producer_name, quantized.producer_version = (
        proto.producer_name,
        proto.producer_version,
    )
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    del quantized.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(
            quantized, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(inferred)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise BadInput(f"the quantized graph is not valid ONNX: {first_line(exc)}") from exc
    return inferred
