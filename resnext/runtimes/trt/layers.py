"""Layers of a TensorRT engine, parsed from the engine inspector or the builder's log.

Both list details only if the engine was built with ``ProfilingVerbosity.DETAILED``, otherwise only
names. TensorRT 10 and 11 describe tensors differently ("Channel major FP16 format where channel % 8
== 0" against "Half" and "(NHWC8) Channel major format ..."); both give the same `EngineLayer`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

from resnext.artifact.records import EngineLayer
from resnext.errors import BadArtifact

#: Element types, by all words that TensorRT 10 and 11 use for them, in lower case.
_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "float": "float32",
        "fp32": "float32",
        "half": "float16",
        "fp16": "float16",
        "bfloat16": "bfloat16",
        "bf16": "bfloat16",
        "fp8": "float8_e4m3fn",
        "fp4": "float4_e2m1fn",
        "int4": "int4",
        "int8": "int8",
        "uint8": "uint8",
        "int32": "int32",
        "int64": "int64",
        "bool": "bool",
    }
)
_FLOATS = ("float32", "float16", "bfloat16")
#: Element types, by their abbreviations in kernel names.
_KERNEL_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "tf32": "tfloat32",
        "f32": "float32",
        "f16": "float16",
        "bf16": "bfloat16",
        "i8": "int8",
        "e4m3": "float8_e4m3fn",
        "e5m2": "float8_e5m2",
    }
)
_ANY = f"(?:{'|'.join(_KERNEL_DTYPES)}|i32)"
#: ``..._f32f32_tf32f32_f32_...``: types of the operands, then the types of products and sums.
_KERNEL = re.compile(f"_{_ANY}{{2}}_({'|'.join(_KERNEL_DTYPES)}){_ANY}_{_ANY}")
#: TensorRT 10 lists constants among the inputs; their names are like ``__mye1753dconst``.
_CONSTANT = re.compile(r"const(?:ant|_|$)")
_WIDTHS = {"Two": 2, "Four": 4, "Eight": 8, "Sixteen": 16, "Thirty-two": 32}
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|$)")


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Layers of ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``, TensorRT
    10 or 11.

    Raises:
        BadArtifact: the text is not JSON, or has another structure.
    """
    try:
        # Not strict: the separators between node names are control characters.
        records = json.loads(text, strict=False)["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BadArtifact(
            f"the engine inspector gave no JSON with a list of layers: {exc}"
        ) from exc
    if not isinstance(records, list):
        raise BadArtifact(
            f"the engine inspector gave {type(records).__name__} instead of a list of layers"
        )
    return tuple(
        _layer({"Name": record} if isinstance(record, str) else record) for record in records
    )


def layers_from_log(text: str) -> tuple[EngineLayer, ...]:
    """Layers of the list that the builder logs, at severity verbose, after a build.

    Args:
        text: any text that contains the message: one line per layer, after ``Layers:`` or ``Engine
            Layer Information:``.

    Raises:
        BadArtifact: it contains no layer.
    """
    # Not splitlines(), which splits at the control characters between node names.
    lines = [line for line in text.split("\n") if re.match(r"Name: .*, LayerType: |Layer\(", line)]
    records = [_record(line) for line in lines]
    if not records:
        raise BadArtifact(
            "the builder's log holds no list of layers",
            hint="build with ProfilingVerbosity.DETAILED",
        )
    return tuple(_layer(record) for record in records)


_LIST = r"\[\]|\[ .*?\}\]"
_LINE = re.compile(
    rf"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w+), Inputs: (?P<Inputs>{_LIST})"
    rf"(?:, Constants: (?P<Constants>{_LIST}))?, Outputs: (?P<Outputs>{_LIST})"
    r"(?:.*?, TacticName: (?P<TacticName>[^,]*))?(?:.*?, Metadata: (?P<Metadata>.*))?"
)
#: A line without DETAILED: ``Layer(Myelin): {ForeignNode[a...b]}, Tactic: 0x0, x (Float[1,8]) -> y
#: (Float[1])``.
_SHORT_LINE = re.compile(r"Layer\((?P<LayerType>\w+)\): (?P<Name>.*), Tactic: ")
_TENSOR = re.compile(r"\{ (Name: .*?) \}")
_FIELD = re.compile(r"(?:^|, )([A-Z][\w/]*): ")


def _record(line: str) -> dict[str, Any]:
    """A line of the log, in the structure of the inspector's JSON."""
    match = _LINE.match(line) or _SHORT_LINE.match(line)
    if match is None:
        raise BadArtifact(f"the builder's log describes a layer in an unknown way: {line[:80]!r}")
    record: dict[str, Any] = match.groupdict()
    for role in ("Inputs", "Constants", "Outputs"):
        tensors = [_FIELD.split(tensor)[1:] for tensor in _TENSOR.findall(record.get(role) or "")]
        record[role] = [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in tensors]
    return record


def _layer(record: Any) -> EngineLayer:
    """The `EngineLayer` of one record of the inspector; unknown fields are ignored."""
    try:
        operands = record.get("Inputs", ())
        inputs = [tensor for tensor in operands if not _CONSTANT.search(tensor["Name"])]
        constants = [
            *record.get("Constants", ()),
            *(tensor for tensor in operands if tensor not in inputs),
        ]
        tactic = record.get("TacticName") or ""
        nodes = [
            name
            for names in _NODE.findall(record.get("Metadata") or "")
            for name in names.split(" + ")
        ]
        return EngineLayer(
            name=record["Name"],
            kind=record.get("LayerType", "unknown"),
            nodes=tuple(dict.fromkeys(nodes)),
            dtype=_computes_in(inputs, constants, tactic),
            inputs=tuple(map(_description, inputs)),
            outputs=tuple(map(_description, record.get("Outputs", ()))),
            tactic=tactic,
        )
    # pydantic's errors are ValueErrors
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BadArtifact(
            f"TensorRT describes a layer in an unknown way: {str(record)[:80]!r}"
        ) from exc


def _computes_in(inputs: Sequence[Any], constants: Sequence[Any], tactic: str) -> str:
    """The element type in the kernel's name; else that of the weights; else that of the data."""
    if named := _KERNEL.search(tactic):
        return _KERNEL_DTYPES[named[1]]
    types = [_dtype(tensor) for tensor in inputs]
    # The weights are the largest constant. Scales, biases and a shortcut among the inputs may have
    # another type, and kernels may cast the data. They do not cast weights, unless these are only
    # stored in a narrower type than the data's.
    weights = _dtype(max(constants, key=_size)) if constants else ""
    dtype = weights if weights in _FLOATS or weights in types else next(iter(types), "unknown")
    return "tfloat32" if dtype == "float32" and "tf32" in tactic else dtype


def _description(tensor: Mapping[str, Any]) -> str:
    return " ".join(
        filter(
            None, (_dtype(tensor), _layout(tensor), f"[{','.join(map(str, _dimensions(tensor)))}]")
        )
    )


def _dtype(tensor: Mapping[str, Any]) -> str:
    words = (
        str(tensor.get("Datatype") or tensor.get("Format/Datatype", "")).lower().rstrip(".").split()
    )
    return next((_DTYPES[word] for word in words if word in _DTYPES), "unknown")


def _layout(tensor: Mapping[str, Any]) -> str:
    """TensorRT 11's short name of the layout, derived from the description if TensorRT 10 wrote it;
    "" if there is none.
    """
    text = str(tensor.get("Format") or tensor.get("Format/Datatype", ""))
    if short := re.match(r"\(([^)]+)\)", text):
        return short[1]
    if wide := re.match(r"(\S+) wide channel", text):
        width = _WIDTHS.get(wide[1], "?")
        return f"NC/{width}HW{width}"
    if text.startswith("Channel major"):
        multiple = re.search(r"channel (?:%|==) (\d+)", text)
        return f"NHWC{multiple[1] if multiple else ''}"
    return "Linear" if text.startswith("Row major") else ""


def _size(tensor: Mapping[str, Any]) -> int:
    return abs(prod(_dimensions(tensor)))


def _dimensions(tensor: Mapping[str, Any]) -> list[int]:
    """Sizes, -1 if dynamic, from a list in JSON or from text in the log."""
    sizes = tensor.get("Dimensions", ())
    return [
        int(size) for size in (re.findall(r"-?\d+", sizes) if isinstance(sizes, str) else sizes)
    ]
