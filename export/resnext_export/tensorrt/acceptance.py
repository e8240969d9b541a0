"""Does TensorRT take an ONNX file? Every reason why not, by node; for any file, and without a
GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnext.errors import BadArtifact, EngineRefused, UsageError
from resnext.runtimes.trt.library import Flavour
from resnext.runtimes.trt.log import captured, shorten

from .engine_from_onnx import BuiltEngine, engine_from_onnx, parser_findings
from .progress import build_bars

if TYPE_CHECKING:
    import onnx

    from resnext.artifact.records import EngineOptions

#: A dimension that takes the batch.
BATCH = "N"


@dataclass(frozen=True)
class Finding:
    """One thing that the library said of the file.

    Attributes:
        severity: ``refused``: the file does not become an engine; ``warning``: it does, and this
            should be known.
        stage: ``parse`` or ``build``.
        node: name of the node, or "" where the library names none.
        operator: its operator, likewise.
        reason: in the library's words, shortened.
    """

    severity: Literal["refused", "warning"]
    stage: Literal["parse", "build"]
    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Acceptance:
    """The outcome.

    Attributes:
        nodes: nodes in the file, or None where it is not ONNX.
        findings: everything that was found.
        engine: what was built, or None.
    """

    nodes: int | None
    findings: tuple[Finding, ...]
    engine: BuiltEngine | None

    @property
    def accepted(self) -> bool:
        """True where an engine came of it."""
        return self.engine is not None


def check_onnx(
    path: Path, flavour: Flavour, options: EngineOptions, shapes: Mapping[str, str]
) -> Acceptance:
    """Parse and build the file; the engine is not kept.

    Args:
        path: any ONNX file.
        flavour: the library.
        options: what to ask of the builder.
        shapes: dimensions of inputs that leave more open than their first, as ``Nx3x224x224``.

    Raises:
        BadArtifact: no such file.
        UsageError: an input with open dimensions that ``shapes`` does not give, or a shape that
            does not fit.
        MissingRequirement: the library, or a GPU that it needs, is missing.
    """
    import onnx

    if not path.is_file():
        raise BadArtifact(f"no ONNX file at {path}")
    from resnext.machine.cuda_driver import probe_driver

    flavour.check_can_build(options, probe_driver())
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception:  # protobuf has many names for it; the parser says what is wrong
        proto = None
    operators = {} if proto is None else {node.name: node.op_type for node in proto.graph.node}
    refused = tuple(
        replace(found, operator=found.operator or operators.get(found.node, ""))
        for found in _parse_findings(path, flavour)
    )
    if refused or proto is None:
        reason = "this is not an ONNX file, or it is cut short"
        refused = refused or (Finding("refused", "parse", "", "", reason),)
        return Acceptance(None if proto is None else len(proto.graph.node), refused, None)
    try:
        with build_bars() as watch:
            built = engine_from_onnx(
                path, flavour, options, shapes=profile_shapes(proto, shapes), watch=watch
            )
    except EngineRefused as exc:
        names = exc.nodes or ("",)
        reason = str(exc).partition(" cannot build the engine: ")[2] or str(exc)
        found = [
            Finding("refused", "build", name, operators.get(name, ""), reason) for name in names
        ]
        return Acceptance(len(proto.graph.node), tuple(found), None)
    warned = tuple(Finding("warning", "build", "", "", line) for line in built.warnings)
    return Acceptance(len(proto.graph.node), warned, built)


def profile_shapes(
    proto: onnx.ModelProto, given: Mapping[str, str]
) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the inputs that an optimization profile must cover; None stands for the batch.

    Raises:
        UsageError: a name that is no input, a shape that does not fit, or open dimensions that are
            not given.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    found: dict[str, tuple[int | None, ...]] = {}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    if unknown := [name for name in given if name not in inputs]:
        raise UsageError(f"the file has no input {unknown[0]!r}; it has {', '.join(inputs)}")
    for name, value in inputs.items():
        dims = [
            dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim
        ]
        if name in given:
            shape = _parse_shape(given[name])
            fits = len(shape) == len(dims) and all(
                h in (None, w) for h, w in zip(dims, shape, strict=True)
            )
            if not fits:
                wanted = "x".join("?" if size is None else str(size) for size in dims)
                raise UsageError(f"--shape {name}={given[name]} does not fit the file's {wanted}")
            found[name] = shape
        elif None in dims[1:]:
            example = "x".join(
                [BATCH if dims[0] is None else str(dims[0]), *(str(d or 224) for d in dims[1:])]
            )
            raise UsageError(
                f"input {name!r} leaves dimensions open that are not the batch; give them, for"
                f" example --shape {name}={example}"
            )
        elif None in dims:
            found[name] = tuple(dims)
    return found


def _parse_shape(text: str) -> tuple[int | None, ...]:
    parts = text.split("x")
    if not all(
        part == BATCH or (part.isascii() and part.isdigit() and int(part) >= 1) for part in parts
    ):
        raise UsageError(f"{text!r} is not a shape like {BATCH}x3x224x224 ({BATCH}: the batch)")
    return tuple(None if part == BATCH else int(part) for part in parts)


def _parse_findings(path: Path, flavour: Flavour) -> tuple[Finding, ...]:
    """Everything that the parser refuses, not only the first."""
    trt = flavour.load()
    with captured(trt) as (logger, log):
        builder = trt.Builder(logger)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, logger)
        if parser.parse_from_file(str(path)):
            return ()
        found = list(parser_findings(parser))
        # Parsing stops at the first; asked what it supports, the parser goes through all.
        network = builder.create_network(typed)
        parser = trt.OnnxParser(network, logger)
        parser.supports_model_v2(path.read_bytes(), str(path))
        found += [
            entry
            for entry in parser_findings(parser)
            if entry[0] not in {known[0] for known in found}
        ]
        if not found:
            found = [("", "", log.reason())]
    return tuple(
        Finding("refused", "parse", node, operator, shorten(reason) or reason)
        for node, operator, reason in found
    )
