"""The manifest: a strict, versioned description of an artifact's file, stored beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from resnext.errors import BadArtifact, ResnextError, UnknownName, UsageError
from resnext.images.preprocessing import Preprocessing, PreprocessingSource
from resnext.network.config import ResNeXtConfig
from resnext.precision import HALVES, QUANTIZED, Precision
from resnext.readers.files import MOST_JSON, exists, read_file
from resnext.readers.strict_json import is_version, parse_json
from resnext.version import __version__

from .kinds import KINDS
from .records import EngineRecord, PackageRecord
from .specs import BatchRange as BatchRange
from .specs import Strict, TensorSpec

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1

#: Why a layer of `QuantizationRecord.left` is not quantized if that was requested.
REQUESTED = "kept by request"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WeightsRecord(Strict):
    """Where the weights came from.

    Attributes:
        source: the SPEC that they were loaded from; a path is absolute.
        sha256: digest of the tensors (names, dtypes, shapes, bytes), whatever the file's format.
        file_sha256: digest of the checkpoint file; None for generated weights, and in artifacts
            from before it was recorded.
        revision: commit of the model repository that the file came from, or None.
        key: the state dict in a file of several, or None.
    """

    source: str
    sha256: Sha256
    file_sha256: Sha256 | None = None
    revision: str | None = None
    key: str | None = None

    @property
    def seeded(self) -> bool:
        """Whether they were generated, not trained."""
        return self.source.partition(":")[0] == "seeded"


class CheckRecord(Strict):
    """Parity of the written file with eager PyTorch, or with the ONNX file from elsewhere that it
    was made from, checked when the artifact was made.

    Attributes:
        batches: batch sizes that were compared.
        backend: runtime that ran the file.
        max_error: largest absolute difference over all batches, relative to the RMS of the
            reference logits.
        tolerance: upper limit of ``max_error``.
        error_ratio: largest ``max_error`` relative to the error of the precision itself; None if
            that is not known.
    """

    batches: tuple[int, ...]
    backend: str
    max_error: float
    tolerance: float
    error_ratio: float | None = None


class RangeRecord(Strict):
    """The largest activation of a half-precision network, computed in float32.

    Attributes:
        layer: name of the convolution, addition or classifier with that activation.
        largest: largest absolute value over the images.
        limit: largest finite value of the precision.
        images: number of images.
    """

    layer: str
    largest: float
    limit: float
    images: int = Field(ge=1)


class QuantizationRecord(Strict):
    """How a graph was quantized, and with which images.

    Attributes:
        runtime: runtime whose Q/DQ scheme the graph has.
        method: how calibration treats outliers; no export has ``entropy`` any more.
        source: name of the calibration images; ``random`` is noise.
        source_sha256: digest of these images.
        images: number of images.
        left: layers that were not quantized, each with the reason; `REQUESTED` if it was asked for.
        ranges: the calibrated (low, high) of each quantized tensor, as applied, by its name in the
            graph; None in artifacts from before they were recorded.
        means: biases were corrected for the rounding of weights, on an input that is this
            everywhere, by the name of the layer: the mean of what it reads. None if they were not.
    """

    runtime: Literal["trt", "ort", "openvino"]
    method: Literal["minmax", "entropy", "percentile"]
    source: str
    source_sha256: Sha256
    images: int = Field(ge=1)
    left: tuple[tuple[str, str], ...] = ()
    ranges: dict[str, tuple[float, float]] | None = None
    means: dict[str, float] | None = None


class MergeRecord(Strict):
    """Convolutions whose groups were merged: the same function with fewer, wider groups.

    Attributes:
        groups: number of groups of each changed convolution, by its name.
        max_error: largest difference to the original graph in float64, relative to the RMS of the
            outputs.
        runtime: runtime that the choice was timed on; None if the width was requested.
        batch: batch size that it was timed at.
        speedup: speed relative to the original graph, from interleaved timing.
    """

    groups: dict[str, int]
    max_error: float
    runtime: Literal["ort", "openvino"] | None = None
    batch: int | None = None
    speedup: float | None = None


class KeptRecord(Strict):
    """Layers of a half-precision network that compute in float32 by request.

    Attributes:
        layers: convolutions and classifier, by their names in the network. A Relu or pooling behind
            one, and the addition behind the last of a block, compute as it does.
    """

    layers: tuple[str, ...] = Field(min_length=1)


class EqualizationRecord(Strict):
    """Channels whose range was moved between two convolutions before quantization: the same
    function.

    Attributes:
        exponents: by the name of the convolution that writes them, the index of each moved channel
            and its exponent: its weights and bias are divided by two to that power, and those of
            the convolution that reads the channel multiplied.
    """

    exponents: dict[str, dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-16, le=16)]]]


class Manifest(Strict):
    """Everything that later stages need to know about an artifact without opening its file.

    Attributes:
        format_version: version of the manifest format; readers refuse any other.
        kind: format of the artifact: an ONNX file, OpenVINO IR (both of its files in one), a
            TensorRT or TensorRT-RTX engine, an AOTInductor package (pt2), or what a registered
            format adds.
        file: name of the file beside the manifest.
        file_sha256: digest of the file.
        file_size_bytes: size of the file.
        model: name of the variant; None for a custom configuration.
        config: the network; None for an ONNX file from elsewhere, of which only the graph is known.
        weights: the exported weights.
        precision: requested element type of weights and activations.
        inputs: inputs of the graph.
        outputs: outputs of the graph.
        batch: batch sizes that the artifact takes.
        preprocessing: what an image goes through before the network; None if nobody said.
        preprocessing_source: who says so: the checkpoint, the publisher's table, the user, or
            nobody (``assumed``); None in artifacts from before it was recorded.
        preprocessing_baked: the graph takes uint8 N x H x W x C pixels and normalizes them itself.
        class_names: one for each logit, or none.
        opset: ONNX operator set of the graph, or of the graph that the artifact was made from; None
            for a package, which is not made from ONNX.
        parent_sha256: digest of the artifact that this one was made from, or None.
        versions: versions of this toolkit and the libraries that made the artifact.
        created: UTC time, ISO 8601.
        build_s: seconds that it took to make the file from what it was made from, without the
            check; None in artifacts from before it was recorded.
        check: the parity check that the file passed; None if it was skipped.
        engine: how and where an engine was built, and the precision of its layers; None for other
            formats.
        package: what a package needs to run, its layers and kernels; None for other formats.
        ranges: how close a half-precision network comes to the limit of its type; None for other
            precisions.
        quantization: how an int8 or fp8 network was calibrated; None for other precisions, and for
            a file from elsewhere.
        merged: convolutions whose groups were merged, or None.
        kept: layers of an fp16 or bf16 network that compute in float32; None if all compute in its
            precision, and for other precisions: what is not quantized is in ``quantization``.
        equalized: channels whose range was moved before quantization, or None.
        request: what the artifact was exported with, as `resnext_export.ExportRequest` takes it;
            None if it was not made from a request.
    """

    format_version: Literal[1] = 1
    kind: str
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    file_sha256: Sha256
    file_size_bytes: int = Field(ge=1)
    model: str | None
    config: ResNeXtConfig | None
    weights: WeightsRecord
    precision: Precision
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    batch: BatchRange
    preprocessing: Preprocessing | None
    preprocessing_source: PreprocessingSource | None = None
    preprocessing_baked: bool = False
    class_names: tuple[str, ...] = ()
    opset: int | None
    parent_sha256: Sha256 | None = None
    versions: dict[str, str]
    created: str
    build_s: float | None = None
    check: CheckRecord | None = None
    engine: EngineRecord | None = None
    package: PackageRecord | None = None
    ranges: RangeRecord | None = None
    quantization: QuantizationRecord | None = None
    merged: MergeRecord | None = None
    kept: KeptRecord | None = None
    equalized: EqualizationRecord | None = None
    request: dict[str, JsonValue] | None = None

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise UnknownName("kind", kind, KINDS)
        return kind

    @model_validator(mode="after")
    def _as_its_kind_has_it(self) -> Manifest:
        kind = KINDS[self.kind]
        for what, here, needed in (
            ("engine", self.engine is not None, kind.record == "engine"),
            ("package", self.package is not None, kind.record == "package"),
            ("opset", self.opset is not None, kind.opset),
        ):
            if here != needed:
                article = "a" if what == "package" else "an"
                raise ValueError(
                    f"a manifest of kind {self.kind} {'has no' if here else f'needs {article}'}"
                    f" {what}"
                )
        return self

    @model_validator(mode="after")
    def _quantization_where_precision_says_so(self) -> Manifest:
        if self.foreign and self.quantization is None:
            return self
        if (self.precision in QUANTIZED) != (self.quantization is not None):
            needs = "needs a" if self.quantization is None else "has no"
            raise ValueError(
                f"a manifest of precision {self.precision} {needs} quantization record"
            )
        return self

    @model_validator(mode="after")
    def _kept_from_half(self) -> Manifest:
        if self.kept is not None and self.precision not in HALVES:
            raise ValueError(
                f"a manifest of precision {self.precision} has no record of kept layers"
            )
        return self

    @model_validator(mode="after")
    def _equalized_for_quantization(self) -> Manifest:
        if self.equalized is not None and self.quantization is None:
            raise ValueError("a manifest without a quantization record has no moved ranges")
        return self

    @model_validator(mode="after")
    def _known_or_foreign(self) -> Manifest:
        if self.foreign and (self.model is not None or self.preprocessing_baked):
            raise ValueError("a manifest without a config has no model and no baked preprocessing")
        if not self.foreign and self.preprocessing is None:
            raise ValueError("a manifest with a config needs a preprocessing")
        return self

    @field_validator("class_names")
    @classmethod
    def _one_for_each_logit(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        config = info.data.get("config")
        if names and config is not None and len(names) != config.num_classes:
            raise ValueError(f"{len(names)} names for {config.num_classes} logits")
        return names

    @property
    def foreign(self) -> bool:
        """Whether it describes an ONNX file from elsewhere, or one made from it: there is no
        network of ours, and there are no weights but those in the file.
        """
        return self.config is None

    @property
    def network(self) -> ResNeXtConfig:
        """`config`, where nothing can be done without one.

        Raises:
            UsageError: it is not known.
        """
        if self.config is None:
            raise UsageError(
                f"nothing says which network {self.file} is: it has no manifest, or that of an ONNX"
                " file from elsewhere",
                hint="name the folder that it was exported to, or export it from its weights",
            )
        return self.config

    @property
    def prepared(self) -> Preprocessing:
        """`preprocessing`, where nothing can be done without one.

        Raises:
            UsageError: it is not known.
        """
        if self.preprocessing is None:
            raise UsageError(
                f"nobody said how a picture becomes the input of {self.file}",
                hint="export the ONNX file again with `mean`, `std` and `resize`",
            )
        return self.preprocessing

    @property
    def quantized(self) -> bool:
        """Whether the precision is one that clips what it was not calibrated for."""
        return self.precision in QUANTIZED

    @property
    def numerics(self) -> str:
        """What parity is judged by: the precision, or ``tf32`` for a float32 engine that may round
        to TF32.
        """
        return "tf32" if self.engine is not None and self.engine.options.tf32 else self.precision

    @property
    def left(self) -> frozenset[str]:
        """Convolutions and classifier that are not of ``precision``, and were never meant to be."""
        names = () if self.kept is None else self.kept.layers
        left = () if self.quantization is None else self.quantization.left
        return frozenset((*names, *(name for name, _ in left)))

    @property
    def kept_by_request(self) -> frozenset[str]:
        """Those of `left` that were requested: an export's ``keep_fp32``."""
        names = () if self.kept is None else self.kept.layers
        left = () if self.quantization is None else self.quantization.left
        return frozenset((*names, *(name for name, reason in left if reason == REQUESTED)))

    @property
    def batch_ranges(self) -> tuple[BatchRange, ...]:
        """Batch sizes that the artifact takes; of an engine, one range for each profile."""
        return (self.batch,) if self.engine is None else self.engine.options.profiles

    def takes(self, batch: int) -> bool:
        """Whether the artifact runs at ``batch``: for an engine, whether a profile covers it."""
        return any(batch in covered for covered in self.batch_ranges)

    def batches(self) -> str:
        """Human-readable batch sizes that the artifact takes."""
        return ", ".join(map(str, self.batch_ranges))

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file.

    Raises:
        BadArtifact: missing, not JSON, of an unknown format version, or not as the schema says.
    """
    if not exists(path):
        raise BadArtifact(
            f"no {MANIFEST_NAME} in {path.parent.absolute()}",
            hint="an artifact is a folder with a model file and its manifest, as an export writes",
        )
    text = read_file(path, MOST_JSON, BadArtifact)
    try:
        raw = parse_json(text)
    except ValueError as exc:
        raise BadArtifact(f"{path} is not JSON: {exc}", hint="export the artifact again") from exc
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not is_version(version, FORMAT_VERSION):
        raise BadArtifact(
            f"{path} has format_version {version!r:.80}, this version reads {FORMAT_VERSION}",
            hint="export the artifact again, or use the toolkit version that wrote it",
        )
    try:
        return Manifest.model_validate_json(text, strict=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"])) or "manifest"
        unknown = isinstance(first.get("ctx", {}).get("error"), UnknownName)
        raise BadArtifact(
            f"{path} is not valid: {field}: {first['msg']}",
            hint=_use_writer(raw) if unknown else "export the artifact again",
        ) from exc
    except ResnextError as exc:
        raise BadArtifact(f"{path} is not valid: {exc}") from exc


def manifest_sha256(directory: Path, manifest: Manifest) -> str:
    """Digest of the bytes of the manifest in ``directory``.

    Raises:
        BadArtifact: they no longer say what ``manifest`` says, which was read from them before.
    """
    path = directory / MANIFEST_NAME
    try:
        data = read_file(path, MOST_JSON, BadArtifact)
        same = Manifest.model_validate_json(data, strict=True) == manifest
    except ValidationError:
        same = False
    if not same:
        raise BadArtifact(f"{path} changed while it was in use", hint="read the artifact again")
    return hashlib.sha256(data).hexdigest()


def _use_writer(raw: dict[str, Any]) -> str:
    """What to do about a kind of file that nothing here knows."""
    versions = raw.get("versions")
    writer = versions.get("resnext-toolkit") if isinstance(versions, dict) else None
    return (
        f"read it with the toolkit version that wrote it ({writer or 'not recorded'}; this is"
        f" {__version__}), or register the format that it is of"
    )
