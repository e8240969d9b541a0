"""A bare ONNX file as an artifact: everything that its graph says, and no word on the rest.

There is no network of ours behind it, so configuration, preprocessing and class names are not
known. The weights are those in the file, and the only reference for it is the file itself.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import onnx
from onnx import TensorProto, helper

from resnext.errors import BadArtifact, UsageError
from resnext.precision import PRECISIONS, Precision
from resnext.readers.files import MOST_ONNX, exists, is_file, read_file
from resnext.readers.foreign import constants, parse_foreign
from resnext.readers.shapes import TensorShape, tensor_shapes
from resnext.version import __version__

from .files import Artifact, read_artifact
from .graph import onnx_graph
from .identity import refuse_different
from .manifest import MANIFEST_NAME, BatchRange, Manifest, WeightsRecord
from .sizes import check_growth
from .specs import TensorSpec
from .trust import Trust, check_trust, current_trust

#: What nothing can tell about a file from elsewhere.
UNKNOWN = (
    "the file is its own reference: whether it is the trained network, and how pictures become its"
    " input, cannot be known from it"
)
#: Order of the axes of an input: an image, or a row of numbers.
Layout: TypeAlias = Literal["nchw", "nhwc", "features"]

_COLORS = (1, 3, 4)
#: Bytes at the start of a ZIP archive that have the name of its first entry.
_MOST_NAME = 1024
#: Element types of inputs and outputs.
_INPUTS = ("float32", "float16", "bfloat16", "uint8")
_OUTPUTS = ("float32", "float16", "bfloat16")
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGER = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
#: Precisions by the element type of a layer, the least precise first.
_PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float8_e4m3fn": "fp8",
        "int8": "int8",
        "uint8": "int8",
        "bfloat16": "bf16",
        "float16": "fp16",
        "float32": "fp32",
    }
)


def open_artifact(
    path: Path, *, input_size: tuple[int, int] | None = None, trust: Trust | None = None
) -> Artifact:
    """Read the artifact at ``path``, or adopt the bare ONNX file there.

    Args:
        path: the artifact (`read_artifact`), or an ONNX file without a manifest beside it.
        input_size: height and width, of a bare file whose input leaves them open.
        trust: as `read_artifact`.

    Raises:
        UsageError: ``input_size`` for what has one.
        BadArtifact: as `read_artifact` and `adopt`.
    """
    if is_bare(path):
        return adopt(path, input_size=input_size, trust=trust)
    if input_size is not None:
        raise UsageError("the artifact has its own input size", hint="drop `input_size`")
    return read_artifact(path, trust=trust)


def is_bare(path: Path) -> bool:
    """Whether ``path`` is a file without a manifest beside it."""
    return is_file(path) and not exists(path.parent / MANIFEST_NAME)


def adopt(
    path: Path, *, input_size: tuple[int, int] | None = None, trust: Trust | None = None
) -> Artifact:
    """An ONNX file from elsewhere as an artifact, with a manifest made from its graph.

    Args:
        path: the file; tensors may lie in other files of its folder.
        input_size: height and width, if the input leaves them open.
        trust: whose artifacts may be opened; a bare file is nobody's.

    Raises:
        BadArtifact: it is not ONNX, is no classifier with one input and one output, asks for more
            memory than there is, or ``trust`` refuses it; says which node or tensor, and what to
            do.
        UsageError: height and width are open and ``input_size`` is None, or the other way round.
    """
    data = read_file(path, MOST_ONNX, BadArtifact)
    try:
        model = parse_foreign(data, path.parent)
    except ValueError as exc:
        if _is_checkpoint(data):
            raise BadArtifact(
                f"{path} is a checkpoint, and no artifact",
                hint="export it first: name it in `weights` there",
            ) from exc
        raise BadArtifact(
            f"no {MANIFEST_NAME} in {path.parent.absolute()}, and {path.name} cannot be used"
            f" without: {exc}"
        ) from exc
    content, parsed = data, onnx.ModelProto()
    parsed.ParseFromString(data)
    if _resized(model, path, input_size) or parsed != model:
        content = model.SerializeToString(deterministic=True)
    name = path.name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", path.name) else "model.onnx"
    facts = graph_facts(model, path)
    manifest = Manifest(
        kind="onnx",
        file=name,
        file_sha256=hashlib.sha256(content).hexdigest(),
        file_size_bytes=len(content),
        model=None,
        config=None,
        weights=WeightsRecord(
            source=str(path.absolute()),
            sha256=facts.pop("weights_sha256"),
            file_sha256=hashlib.sha256(data).hexdigest(),
        ),
        preprocessing=None,
        versions={"resnext-toolkit": __version__, **_producer(model)},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **facts,
    )
    check_trust(path.parent, manifest, current_trust() if trust is None else trust)
    return Artifact(path.parent, manifest, content)


def _is_checkpoint(data: bytes) -> bool:
    """Whether a file begins as one of safetensors or of `torch.save`, old or new."""
    new = data.startswith(b"PK\3\4") and b"/data.pkl" in data[:_MOST_NAME]
    return new or data.startswith(b"\x80\2") or data[4:9] == bytes(4) + b"{"


def check_foreign_graph(artifact: Artifact) -> None:
    """Check that the manifest of an ONNX file from elsewhere says what its graph says.

    Raises:
        BadArtifact: it says something else, or the file is no classifier.
    """
    manifest = artifact.manifest
    facts = graph_facts(onnx_graph(artifact), artifact.path)
    different = [] if facts.pop("weights_sha256") == manifest.weights.sha256 else ["weights"]
    different += [name for name, value in facts.items() if getattr(manifest, name) != value]
    refuse_different(artifact, different)


def layout_of(shape: tuple[int | None, ...]) -> Layout | None:
    """Order of the axes of an input; None if it is neither an image nor a row of numbers."""
    if len(shape) == 2:
        return "features"
    if len(shape) != 4:
        return None
    return "nhwc" if shape[3] in _COLORS and shape[1] not in _COLORS else "nchw"


def graph_facts(model: onnx.ModelProto, path: Path) -> dict[str, Any]:
    """What the graph of a classifier says: fields of its manifest, and ``weights_sha256``.

    Raises:
        BadArtifact: as `adopt`.
    """
    try:
        source = _input(model)
        size = source.shape[0]
        batch = BatchRange(min=size or 1, opt=size or 8, max=size)
        inferred = {each.name: each for each in tensor_shapes(model, batch.min)}
        check_growth(partial(tensor_shapes, model), batch)
        result = _output(model, batch, inferred)
        precision = _precision(model, inferred)
    except ValueError as exc:
        raise BadArtifact(f"{path}: {exc}") from exc
    return {
        "inputs": (source,),
        "outputs": (result,),
        "batch": batch,
        "precision": precision,
        "opset": next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx")),
        "weights_sha256": _weights_sha256(model),
    }


def _resized(model: onnx.ModelProto, path: Path, input_size: tuple[int, int] | None) -> bool:
    """Fix height and width of an input that leaves them open; whether they were."""
    inputs = _real_inputs(model)
    dims = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else ()
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    layout = layout_of(shape)
    sides = (1, 2) if layout == "nhwc" else (2, 3)
    if layout not in ("nchw", "nhwc") or all(shape[side] is not None for side in sides):
        if input_size is not None:
            raise UsageError(f"the input of {path} has a size already", hint="drop `input_size`")
        return False
    if input_size is None:
        raise UsageError(
            f"{path} leaves the height and width of its input open",
            hint="say them with `input_size`, for example 224x224",
        )
    for side, size in zip(sides, input_size, strict=True):
        if shape[side] not in (None, size):
            raise UsageError(f"the input of {path} has the fixed size {shape[side]}, not {size}")
        dims[side].ClearField("dim_param")
        dims[side].dim_value = size
    # What the file declares of the others may be of another size.
    del model.graph.value_info[:]
    return True


def _real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _input(model: onnx.ModelProto) -> TensorSpec:
    inputs = _real_inputs(model)
    if len(inputs) != 1:
        raise ValueError(
            f"it has {len(inputs)} inputs{_names(inputs)}, and a classifier takes one: the images;"
            " make constants of the others, or cut the graph with onnx.utils.extract_model"
        )
    kind = inputs[0].type.tensor_type
    dtype, name = _dtype(kind.elem_type), inputs[0].name
    if dtype not in _INPUTS:
        raise ValueError(f"its input {name[:80]!r} is {dtype}, and images are {_or(_INPUTS)}")
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    if layout_of(shape) is None:
        raise ValueError(
            f"its input {name[:80]!r} has {len(shape)} dimensions; a classifier takes a batch of"
            " images (N x C x H x W or N x H x W x C), or of rows (N x values)"
        )
    if None in shape[1:]:
        raise ValueError(f"its input {name[:80]!r} has {_text(shape)}: only N may be open")
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _output(
    model: onnx.ModelProto, batch: BatchRange, inferred: dict[str, TensorShape]
) -> TensorSpec:
    outputs = model.graph.output
    if len(outputs) != 1:
        raise ValueError(
            f"it has {len(outputs)} outputs{_names(list(outputs))}, and a classifier has one: the"
            " logits; cut the graph with onnx.utils.extract_model"
        )
    name = outputs[0].name
    sizes = (batch.min,) if batch.static else (1, 2)
    for size in sizes:
        found = inferred if size == batch.min else {e.name: e for e in tensor_shapes(model, size)}
        if name not in found:
            raise ValueError(f"its output {name[:80]!r} is nothing that a node computes")
        shape, dtype = found[name].shape, _dtype(found[name].dtype)
        if len(shape) != 2 or shape[0] != size:
            raise ValueError(
                f"its output {name[:80]!r} has {_text(shape)} for {size} images, and a classifier"
                f" gives {size} x classes; export it with a batch dimension, and flattened"
            )
    if dtype not in _OUTPUTS:
        raise ValueError(f"its output {name[:80]!r} is {dtype}, and logits are {_or(_OUTPUTS)}")
    return TensorSpec(name=name, dtype=dtype, shape=(batch.min if batch.static else None, shape[1]))


def _precision(model: onnx.ModelProto, inferred: dict[str, TensorShape]) -> Precision:
    """The least precise element type of convolutions and matrix products."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {name: tensor.data_type for name, tensor in constants(model.graph)}
    types |= {name: each.dtype for name, each in inferred.items()}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = set()
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            found.add("int8")
        elif node.op_type in _HEAVY:
            for name in node.input[:2]:
                maker = makers.get(name)
                while maker is not None and maker.op_type in ("Reshape", "Transpose"):
                    maker = makers.get(maker.input[0])
                if maker is not None and maker.op_type == "DequantizeLinear":
                    name = maker.input[0]
                found.add(_dtype(types.get(name, TensorProto.FLOAT)))
    found = found or {_dtype(inferred[model.graph.output[0].name].dtype)}
    if unknown := sorted(found.difference(_PRECISIONS)):
        raise ValueError(f"it computes in {unknown[0]}, and {', '.join(PRECISIONS)} are known")
    return next(precision for dtype, precision in _PRECISIONS.items() if dtype in found)


def _weights_sha256(model: onnx.ModelProto) -> str:
    """Digest of the stored tensors, by name."""
    digest = hashlib.sha256()
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in sorted((stored | dict(constants(model.graph))).items()):
        digest.update(name.encode() + b"\0" + tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _producer(model: onnx.ModelProto) -> dict[str, str]:
    name = model.producer_name[:80]
    return {name: model.producer_version[:80] or "not recorded"} if name else {}


def _dtype(number: int) -> str:
    try:
        return str(helper.tensor_dtype_to_np_dtype(number).name)
    except (KeyError, TypeError, ValueError):
        return f"of element type {number}"


def _names(values: list[onnx.ValueInfoProto]) -> str:
    shown = ", ".join(value.name[:40] for value in values[:4])
    return f" ({shown}{', ...' if len(values) > 4 else ''})" if values else ""


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _text(shape: tuple[int | None, ...]) -> str:
    sizes = " x ".join("?" if size is None else str(size) for size in shape)
    return f"shape {sizes or 'scalar'}"
