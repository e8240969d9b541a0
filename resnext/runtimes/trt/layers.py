"""Layers of a TensorRT engine: what the engine inspector and the builder's log say of each, in one
form.

Both describe an engine that was built with ``ProfilingVerbosity.DETAILED``; with less there are
names alone. TensorRT 10 and 11 spell a tensor differently ("Channel major FP16 format where channel
% 8 == 0" against "Half" and "(NHWC8) Channel major format ..."); both give the same `EngineLayer`.
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

#: Element types, by every word that a TensorRT of 10 or 11 uses for them, in lower case.
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
#: Element types, by how kernels are named after them.
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
#: ``..._f32f32_tf32f32_f32_...``: types of the operands, then the type multiplied in and that of
#: the sums.
_KERNEL = re.compile(f"_{_ANY}{{2}}_({'|'.join(_KERNEL_DTYPES)}){_ANY}_{_ANY}")
#: Where constants are listed among the inputs (TensorRT 10), their names tell them:
#: ``__mye1753dconst``.
_CONSTANT = re.compile(r"const(?:ant|_|$)")
_WIDTHS = {"Two": 2, "Four": 4, "Eight": 8, "Sixteen": 16, "Thirty-two": 32}
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|$)")


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Layers of ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``, TensorRT
    10 or 11.

    Raises:
        BadArtifact: not JSON, or not of that form.
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
    """Layers of the list that the builder logs, severity verbose, when an engine is finished.

    Args:
        text: the message, or any text that holds it: a line for each layer, after ``Layers:`` or
            ``Engine Layer Information:``.

    Raises:
        BadArtifact: it holds no layer.
    """
    # Not splitlines(): it would cut at the control characters between node names.
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
#: What there is without DETAILED: ``Layer(Myelin): {ForeignNode[a...b]}, Tactic: 0x0, x
#: (Float[1,8]) -> y (Float[1])``.
_SHORT_LINE = re.compile(r"Layer\((?P<LayerType>\w+)\): (?P<Name>.*), Tactic: ")
_TENSOR = re.compile(r"\{ (Name: .*?) \}")
_FIELD = re.compile(r"(?:^|, )([A-Z][\w/]*): ")


def _record(line: str) -> dict[str, Any]:
    """A line of the log as the inspector's JSON would have it."""
    match = _LINE.match(line) or _SHORT_LINE.match(line)
    if match is None:
        raise BadArtifact(f"the builder's log describes a layer in an unknown way: {line[:80]!r}")
    record: dict[str, Any] = match.groupdict()
    for role in ("Inputs", "Constants", "Outputs"):
        tensors = [_FIELD.split(found)[1:] for found in _TENSOR.findall(record.get(role) or "")]
        record[role] = [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in tensors]
    return record


def _layer(record: Any) -> EngineLayer:
    """An `EngineLayer` of the inspector's record, or of a like one; fields that are not known are
    left alone.
    """
    try:
        given = record.get("Inputs", ())
        inputs = [tensor for tensor in given if not _CONSTANT.search(tensor["Name"])]
        constants = [
            *record.get("Constants", ()),
            *(tensor for tensor in given if tensor not in inputs),
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
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as exc:  # pydantic's are ValueErrors too
        raise BadArtifact(
            f"TensorRT describes a layer in an unknown way: {str(record)[:80]!r}"
        ) from exc


def _computes_in(inputs: Sequence[Any], constants: Sequence[Any], tactic: str) -> str:
    """What the kernel's name says; else the type of the weights; else that of the data."""
    if named := _KERNEL.search(tactic):
        return _KERNEL_DTYPES[named[1]]
    types = [_dtype(tensor) for tensor in inputs]
    # The weights are the largest constant: scales and biases, and a shortcut among the inputs, may
    # have another type. Data may be cast inside the kernel, weights need not be, unless they are
    # only stored narrow and the data is not.
    weights = _dtype(max(constants, key=_size)) if constants else ""
    found = weights if weights in _FLOATS or weights in types else next(iter(types), "unknown")
    return "tfloat32" if found == "float32" and "tf32" in tactic else found


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
    """TensorRT 11's short name of the layout, worked out from TensorRT 10's description; "" where
    none is given.
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
    """Sizes; -1 where any is taken. A list in JSON, text in the log."""
    sizes = tensor.get("Dimensions", ())
    return [
        int(size) for size in (re.findall(r"-?\d+", sizes) if isinstance(sizes, str) else sizes)
    ]
