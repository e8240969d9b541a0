"""One model of a repository as it lies on disk: configuration, lines, versions, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import MANIFEST_NAME, BatchRange
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, BadInput, MissingRequirement
from resnext.findings import Finding
from resnext.readers.files import MIB, MOST_ONNX, exists, is_file, read_file

from .backends import BACKENDS, Backend
from .config import CONFIG_NAME
from .pbtxt import FieldPath, lines_of

_MOST_CONFIG = 4 * MIB


@dataclass(frozen=True)
class Tensors:
    """What the model file of one version takes and gives.

    Attributes:
        inputs: each input, its shape with the batch.
        outputs: each output, likewise.
        ranges: batch sizes that it takes; of an engine, one for each profile.
        artifact: the artifact that the version is; None if it has no manifest.
        unranked: names of those of which the file does not say how many dimensions they have.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: tuple[BatchRange, ...]
    artifact: Artifact | None = None
    unranked: frozenset[str] = frozenset()


@dataclass
class Served:
    """A model.

    Attributes:
        folder: its folder, whose name the server calls it by.
        config: the parsed configuration (``inference.ModelConfig``).
        text: the same, as written.
        tensors: of each version that the server would load and whose file says them.
        unchecked: what could not be checked, and why.
        damaged: findings about files that cannot be used.
    """

    folder: Path
    config: Any
    text: str
    tensors: dict[int, Tensors] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    damaged: list[Finding] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @cached_property
    def lines(self) -> dict[FieldPath, int]:
        """Lines of the fields."""
        return lines_of(self.text)

    def at(self, *path: str | int) -> str:
        """Where a field is: file and line; the nearest one around it if it is not there."""
        while path and path not in self.lines:
            path = path[:-1]
        line = f":{self.lines[path]}" if path else ""
        return f"{self.name}/{CONFIG_NAME}{line}"

    def at_key(self, field: str, key: str) -> str:
        """Where the entry of a map is."""
        texts = self.text.splitlines()
        for path, line in self.lines.items():
            if path[0] == field and path[2:] == ("key", 0) and key in texts[line - 1]:
                return self.at(*path)
        return self.at(field)

    @property
    def backend(self) -> str:
        """What runs it: the name of a backend, ``ensemble``, or "" if the server finds out."""
        if self.config.backend:
            return str(self.config.backend)
        named = {row.platform: row.name for row in BACKENDS.values() if row.platform}
        return named.get(self.config.platform, str(self.config.platform))

    @property
    def known_backend(self) -> Backend | None:
        """The row of its backend, if it is one of ours."""
        return next((row for row in BACKENDS.values() if row.name == self.backend), None)

    def parameter(self, key: str) -> str:
        """The text of a parameter; "" if there is none."""
        parameters = self.config.parameters  # asked for a key that it lacks, it adds it
        return str(parameters[key].string_value) if key in parameters else ""

    @cached_property
    def versions(self) -> tuple[int, ...]:
        """Numbers of the version folders."""
        return version_numbers(self.folder)

    @property
    def unlisted(self) -> Mapping[str, frozenset[str]]:
        """Tensors that the server itself sends and takes, by field: ``input`` and ``output`` of the
        configuration do not list those of sequences and of ragged batches.
        """
        sequence = self.config.sequence_batching
        sent = {each.name for each in sequence.control_input}
        sent |= {each.input_name for each in sequence.state}
        sent |= {name for each in self.config.batch_input for name in each.target_name}
        return {
            "input": frozenset(sent),
            "output": frozenset(each.output_name for each in sequence.state),
        }

    @property
    def loaded(self) -> tuple[int, ...]:
        """Those of them that the server loads, by the version policy."""
        policy = self.config.version_policy
        if policy.HasField("all"):
            return self.versions
        if policy.HasField("specific"):
            return tuple(number for number in self.versions if number in policy.specific.versions)
        return self.versions[-(policy.latest.num_versions or 1) :]

    @property
    def file(self) -> str:
        """Name of the model file; "" if only the backend knows."""
        if self.config.default_model_filename:
            return str(self.config.default_model_filename)
        if self.backend == "python":
            return "model.py"
        return self.known_backend.file if self.known_backend is not None else ""


def version_numbers(folder: Path) -> tuple[int, ...]:
    """Numbers of a model's version folders."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return tuple(sorted(int(n) for n in names if n.isascii() and n.isdigit() and n[0] != "0"))


def model_dims(tensor: Any) -> tuple[int, ...]:
    """The dimensions that the model itself sees of an input or output of a configuration."""
    return tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def enum_name(message: Any, field: str) -> str:
    """The name of an enumeration's value; its number if it has none, which protobuf lets pass."""
    kind, number = message.DESCRIPTOR.fields_by_name[field].enum_type, getattr(message, field)
    return str(kind.values_by_number[number].name if number in kind.values_by_number else number)


def model_config_class() -> tuple[Any, Any]:
    """``inference.ModelConfig`` and protobuf's ``text_format``.

    Raises:
        MissingRequirement: tritonclient is not installed.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc.model_config_pb2 import ModelConfig
    except ImportError as exc:
        raise MissingRequirement(
            f"configurations are read with tritonclient's definitions: {exc}",
            hint='pip install "tritonclient[grpc]"',
        ) from exc
    return ModelConfig, text_format


def read_model(folder: Path) -> Served | Finding:
    """Read a model's folder; a finding if there is no configuration, or it is not valid."""
    path = folder / CONFIG_NAME
    if not exists(path):
        return Finding(
            "config-missing",
            f"there is no {CONFIG_NAME}, so the server makes one up, if the backend can",
            "write one, and know what is served",
            "warning",
            folder.name,
        )
    model_config, text_format = model_config_class()
    where = f"{folder.name}/{CONFIG_NAME}"
    try:
        text = read_file(path, _MOST_CONFIG).decode()
        config = text_format.Parse(text, model_config())
    except (BadInput, UnicodeDecodeError) as exc:
        return Finding("config-syntax", str(exc), "write it again, as UTF-8", where=where)
    except ValueError as exc:  # a number that no enumeration can have: protobuf says no line
        return Finding("config-syntax", str(exc), "use a name that Triton knows", where=where)
    except text_format.ParseError as exc:
        line, column = exc.GetLine(), exc.GetColumn()
        message = str(exc).removeprefix(f"{line}:{column} : ").rpartition("': ")[2]
        if line is not None:
            where += f":{line}:{column or 1}"
        return Finding(
            "config-syntax",
            message or str(exc),
            "the server says no more than: failed to read text proto",
            where=where,
        )
    model = Served(folder, config, text)
    for version in model.loaded:
        _read_tensors(model, version)
    return model


def _read_tensors(model: Served, version: int) -> None:
    """Find out what the file of a version takes, or why nothing says so."""
    folder, where = model.folder / str(version), f"{model.name}/{version}"
    if exists(folder / MANIFEST_NAME):
        try:
            artifact = read_artifact(folder)
        except BadArtifact as exc:
            hint = exc.hint or "export the artifact again"
            model.damaged.append(Finding("artifact", exc.message, hint, where=where))
            return
        manifest = artifact.manifest
        model.tensors[version] = Tensors(
            manifest.inputs, manifest.outputs, manifest.batch_ranges, artifact
        )
        return
    path = folder / model.file
    if model.config.cc_model_filenames:
        model.unchecked.append(f"{where}: batches and tensors of an engine for each kind of GPU")
        return
    if model.backend in ("python", "ensemble") or not model.file or not is_file(path):
        return
    if path.suffix != ".onnx":
        model.unchecked.append(
            f"{where}: batches and tensors of {path.name}, which has no {MANIFEST_NAME} beside it"
        )
        return
    try:
        model.tensors[version] = _onnx_tensors(path)
    except (BadInput, ValueError) as exc:
        model.damaged.append(Finding("model-file", str(exc), "export it again", where=where))


def _onnx_tensors(path: Path) -> Tensors:
    """Inputs and outputs of any ONNX file.

    Raises:
        BadInput: it cannot be read.
        ValueError: it is not ONNX, or a tensor has no type that is known.
    """
    import onnx
    from google.protobuf.message import DecodeError

    graph = onnx.ModelProto()
    try:
        graph.ParseFromString(read_file(path, MOST_ONNX))
    except DecodeError as exc:
        raise ValueError(f"{path.name} is not ONNX: {exc}") from exc
    stored = {tensor.name for tensor in graph.graph.initializer}
    inputs = tuple(_spec(value) for value in graph.graph.input if value.name not in stored)
    outputs = tuple(_spec(value) for value in graph.graph.output)
    first = inputs[0].shape[:1] if inputs else ()
    size = first[0] if first else None
    unranked = frozenset(
        value.name
        for value in (*graph.graph.input, *graph.graph.output)
        if not value.type.tensor_type.HasField("shape")
    )
    ranges = (BatchRange(min=size or 1, opt=size or 1, max=size),)
    return Tensors(inputs, outputs, ranges, unranked=unranked)


def _spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    except (KeyError, TypeError) as exc:
        raise ValueError(f"tensor {value.name} is of element type {kind.elem_type}") from exc
    if kind.elem_type == onnx.TensorProto.STRING:
        dtype = "object"
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
