"""The stored outcome of a calibration: the range of every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from resnext.artifact.manifest import Sha256
from resnext.errors import BadArtifact, MissingRequirement
from resnext.readers.strict_json import is_version, parse_json
from resnext.storage import read_cached, write_cached
from resnext_export.options import Method as Method

FORMAT_VERSION = 1


class Ranges(BaseModel):
    """The range of each floating-point tensor that a node reads or writes.

    Attributes:
        format_version: version of this file format; readers refuse any other.
        onnx_sha256: digest of the calibrated ONNX file.
        weights_sha256: digest of its weights, from its metadata (``resnext.weights_sha256``), or
            None.
        method: how outliers were treated.
        source: human-readable name of the images.
        source_sha256: digest of the images.
        images: number of images.
        onnxruntime: version of the calibrators.
        ranges: (low, high) by tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format_version: Literal[1] = 1
    onnx_sha256: Sha256
    weights_sha256: Sha256 | None
    method: Method
    source: str
    source_sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    onnxruntime: str
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @field_validator("ranges")
    @classmethod
    def _in_order(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if wrong := [name for name, (low, high) in ranges.items() if low > high]:
            raise ValueError(f"{wrong[0]!r} has its low end above its high end")
        return ranges

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all, behind a digest.

        Raises:
            MissingRequirement: it cannot be written.
        """
        try:
            write_cached(path, (self.model_dump_json(indent=1) + "\n").encode())
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write {path}: {exc.strerror or exc}", hint="choose another place"
            ) from exc


def read_ranges(path: Path) -> Ranges:
    """Read and check a file written by `Ranges.write`.

    Raises:
        BadArtifact: missing, damaged, not JSON, of another format version, or not valid.
    """
    if (text := read_cached(path)) is None:
        raise BadArtifact(f"{path} is missing or damaged", hint="calibrate again")
    try:
        raw = parse_json(text)
    except ValueError as exc:
        raise BadArtifact(f"{path} is not JSON: {exc}", hint="calibrate again") from exc
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not is_version(version, FORMAT_VERSION):
        raise BadArtifact(
            f"{path} has format_version {version!r:.80}, this version reads {FORMAT_VERSION}",
            hint="calibrate again or use the toolkit that wrote it",
        )
    try:
        return Ranges.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(map(str, first["loc"])) or "calibration"
        raise BadArtifact(
            f"{path} is not valid: {place}: {first['msg']}", hint="calibrate again"
        ) from exc
