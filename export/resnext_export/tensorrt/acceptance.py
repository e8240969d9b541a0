"""Checks any ONNX file against TensorRT: all reasons for a refusal, by node, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from resnext.artifact.files import read_artifact
from resnext.artifact.manifest import MANIFEST_NAME
from resnext.artifact.records import EngineOptions
from resnext.errors import BadArtifact, EngineRefused, UsageError
from resnext.findings import Finding
from resnext.machine.machine import this_machine
from resnext.readers.files import MOST_ONNX, exists, is_folder, read_file
from resnext.readers.graphs import parse_onnx
from resnext.runtimes.trt.library import Library
from resnext.runtimes.trt.log import captured, shorten

from .engine_from_onnx import BuiltEngine, engine_from_onnx, parser_errors
from .progress import build_bars

_INSIDE = "save it as one file, with its weights inside"
#: Stands for the batch in a shape.
BATCH = "N"


@dataclass(frozen=True)
class Acceptance:
    """The outcome of a check.

    Attributes:
        nodes: number of nodes in the file, or None if it is not ONNX.
        findings: all messages of the library, shortened. The code is the stage, ``parse`` or
            ``build``; ``where`` is a node's name, or "" if the library names none. ``refused``
            means that no engine can be built.
        engine: the built engine, or None.
        operators: operators by node name, as far as they are known.
    """

    nodes: int | None
    findings: tuple[Finding, ...]
    engine: BuiltEngine | None
    operators: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """True if an engine was built."""
        return self.engine is not None


def onnx_file(path: Path) -> Path:
    """The file of the ONNX artifact in ``path``, or ``path`` itself if it is not an artifact.

    Raises:
        UsageError: it is an artifact of another format.
    """
    if not (is_folder(path) and exists(path / MANIFEST_NAME)):
        return path
    artifact = read_artifact(path)
    manifest = artifact.manifest
    if manifest.kind != "onnx":
        what = f"a file of format {manifest.kind}" if manifest.engine is None else "an engine"
        raise UsageError(
            f"{path} holds {what} already", hint="check the ONNX artifact that it was made from"
        )
    return artifact.path


def check_onnx(
    path: Path, library: Library, options: EngineOptions, shapes: Mapping[str, str]
) -> Acceptance:
    """Parse the file and build an engine from it, which is not stored.

    Args:
        path: any ONNX file.
        library: the library.
        options: builder options.
        shapes: shapes of inputs with dynamic dimensions besides the first, as ``Nx3x224x224``.

    Raises:
        BadArtifact: no such file.
        UsageError: an input has dynamic dimensions that ``shapes`` lacks, or a shape does not fit.
        MissingRequirement: the library, or a GPU that it needs, is missing.
    """
    if not exists(path):
        raise BadArtifact(f"no ONNX file at {path}")
    data = read_file(path, MOST_ONNX, BadArtifact)
    machine = this_machine()
    library.check_can_build(options, machine.driver)
    library.load()  # what it would say of a file is of no use without it
    try:
        # Functions and operators of other domains are for the library's parser to judge.
        proto = parse_onnx(data, foreign=True)
    except ValueError as exc:
        return Acceptance(None, (Finding("parse", str(exc), _INSIDE),), None)
    operators = {node.name: node.op_type for node in proto.graph.node}
    nodes = len(proto.graph.node)
    if errors := _parse_errors(data, library):
        operators |= {node: operator for node, operator, _ in errors if operator}
        refused = tuple(Finding("parse", reason, where=node) for node, _, reason in errors)
        return Acceptance(nodes, refused, None, operators)
    try:
        with build_bars() as watch:
            built = engine_from_onnx(
                data,
                library,
                options,
                shapes=profile_shapes(proto, shapes),
                watch=watch,
                machine=machine,
            )
    except EngineRefused as exc:
        reason = exc.message.partition(" cannot build the engine: ")[2] or exc.message
        refused = tuple(
            Finding("build", reason, exc.hint, where=node) for node in exc.nodes or ("",)
        )
        return Acceptance(nodes, refused, None, operators)
    warnings = tuple(Finding("build", line, severity="warning") for line in built.warnings)
    return Acceptance(nodes, warnings, built, operators)


def profile_shapes(
    proto: onnx.ModelProto, requested: Mapping[str, str]
) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the inputs that need an optimization profile; None stands for the batch.

    Raises:
        UsageError: no input has the name, a shape does not fit, or dynamic dimensions are missing.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    shapes: dict[str, tuple[int | None, ...]] = {}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    if unknown := [name for name in requested if name not in inputs]:
        raise UsageError(f"the file has no input {unknown[0]!r}; it has {', '.join(inputs)}")
    for name, value in inputs.items():
        dims = [
            dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim
        ]
        if name in requested:
            shape = _parse_shape(requested[name])
            fits = len(shape) == len(dims) and all(
                size in (None, chosen) for size, chosen in zip(dims, shape, strict=True)
            )
            if not fits:
                actual = "x".join("?" if size is None else str(size) for size in dims)
                raise UsageError(
                    f"`shape` {name}={requested[name]} does not fit the file's {actual}"
                )
            shapes[name] = shape
        elif None in dims[1:]:
            example = "x".join(
                [BATCH if dims[0] is None else str(dims[0]), *(str(d or 224) for d in dims[1:])]
            )
            raise UsageError(
                f"input {name!r} has dynamic dimensions besides the batch",
                hint=f"set them, for example `shape` {name}={example}",
            )
        elif None in dims:
            shapes[name] = tuple(dims)
    return shapes


def _parse_shape(text: str) -> tuple[int | None, ...]:
    parts = text.split("x")
    if not all(
        part == BATCH or (part.isascii() and part.isdigit() and int(part) >= 1) for part in parts
    ):
        raise UsageError(f"{text!r} is not a shape like {BATCH}x3x224x224 ({BATCH}: the batch)")
    return tuple(None if part == BATCH else int(part) for part in parts)


def _parse_errors(data: bytes, library: Library) -> list[tuple[str, str, str]]:
    """(node, operator, reason) of everything that the parser refuses, not only of the first."""
    trt = library.load()
    with captured(trt) as (logger, log):
        builder = trt.Builder(logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, logger)
        if parser.parse(data):
            return []
        errors = list(parser_errors(parser))
        # Parsing stops at the first error; supports_model_v2 reports all.
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, logger)
        parser.supports_model_v2(data, "")
        nodes = {node for node, _, _ in errors}
        errors += [error for error in parser_errors(parser) if error[0] not in nodes]
        if not errors:
            errors = [("", "", log.reason())]
    return [(node, operator, shorten(reason) or reason) for node, operator, reason in errors]
