"""Export formats: one row each. The modules that build them are imported when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from resnext.artifact.kinds import KINDS, Kind
from resnext.errors import UnknownName

from .options import FormatOptions, Option, Runtime, options_of


@dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
        name: what ``ExportRequest.format`` takes.
        about: one line for ``--help``.
        source: what it is made from: the weights, or an ONNX artifact of the same precision.
        builder: ``module:class`` of its `resnext_export.formats.base.Builder`.
        options: options that only this format has.
        scheme: runtime that a quantized graph is laid out for by default.
        profiles: it is built for one or several bounded batch ranges (optimization profiles).
    """

    name: str
    about: str
    source: Literal["weights", "onnx"]
    builder: str
    options: type[FormatOptions] = FormatOptions
    scheme: Runtime = "ort"
    profiles: bool = False

    @property
    def is_source(self) -> bool:
        """Other formats are made from it, and so are its own other precisions."""
        return self.source == self.name


class Formats(Mapping[str, Format]):
    """Formats by name."""

    def __init__(self, *rows: Format) -> None:
        self._rows: dict[str, Format] = {}
        for row in rows:
            self.register(row)

    def register(self, row: Format) -> None:
        """Add a format; artifacts of its name are then a kind that manifests can be of.

        Raises:
            ValueError: its name, or one of its options, is taken.
        """
        if row.name in self._rows:
            raise ValueError(f"there is a format {row.name!r} already")
        for other in self._rows.values():
            if other.options is not row.options and (
                both := options_of(other.options).keys() & options_of(row.options)
            ):
                raise ValueError(f"format {other.name!r} has an option {min(both)!r} already")
        self._rows[row.name] = row
        KINDS.setdefault(row.name, Kind(opset=row.source == "onnx"))

    def unregister(self, name: str) -> None:
        """Remove a format that `register` added, and its kind."""
        del self._rows[name], KINDS[name]

    def __getitem__(self, name: str) -> Format:
        if name not in self._rows:
            raise UnknownName("format", name, self._rows)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows


@dataclass(frozen=True)
class EngineChoices(FormatOptions):
    """Options of TensorRT's builders."""

    section: ClassVar[str] = "Engine"
    title: ClassVar[str] = "engines: "

    tf32: Annotated[
        bool, Option("Let float32 layers round to TF32, which is faster and less exact.")
    ] = False
    workspace_mib: Annotated[
        int | None,
        Interval(ge=1, le=1 << 20),
        Option("Workspace limit in MiB.", flag="workspace", metavar="MIB"),
    ] = None
    optimization_level: Annotated[
        int | None,
        Interval(ge=0, le=5),
        Option(
            "Builder optimization level, 0 to 5: higher takes longer and finds faster kernels."
            " TensorRT only."
        ),
    ] = None
    tiling_level: Annotated[
        Literal["none", "fast", "moderate", "full"] | None,
        Option(
            "How long to search for kernels that keep tiles in the L2 cache. TensorRT only.",
            kind="tiling level",
        ),
    ] = None
    timing_cache: Annotated[
        Path | None,
        Option("File with kernel timings to reuse and extend. TensorRT only.", metavar="PATH"),
    ] = None
    compatibility: Annotated[
        Literal["none", "ampere+", "same-cc", "version"],
        Option(
            "Other machines the engine must load on: any GPU from Ampere on, any GPU of the same"
            " compute capability, or later TensorRT versions. TensorRT only.  [default: none]",
            kind="compatibility level",
        ),
    ] = "none"
    strip_weights: Annotated[
        bool, Option("Leave the weights out of the engine; the refit command adds them.")
    ] = False
    targets: Annotated[
        tuple[str, ...],
        Option(
            "Compute capabilities to build for. TensorRT-RTX only.  [default: Ampere and later]",
            flag="target",
            metavar="sm_89[,sm_120]",
        ),
    ] = ()
    fallbacks: Annotated[
        tuple[Literal["merge-groups", "fp32-islands"], ...] | Literal["fail"],
        Option(
            "What to try, in order, if there is no half-precision kernel for a grouped"
            " convolution.  [default: merge-groups,fp32-islands]",
            flag="on-refusal",
            kind="fallback",
        ),
    ] = ("merge-groups", "fp32-islands")


@dataclass(frozen=True)
class PackageOptions(FormatOptions):
    """Options of a compiled package."""

    section: ClassVar[str] = "Package"

    device: Annotated[
        Literal["cpu", "cuda"], Option("Device to compile the package for.  [default: cpu]")
    ] = "cpu"
    kernels: Annotated[
        Literal["inductor", "fused"],
        Option(
            "Whose kernels compute the blocks: PyTorch's compiler and libraries, or the toolkit's"
            " own, fused ones, for CUDA in fp16.  [default: inductor]",
            kind="kernels",
        ),
    ] = "inductor"


FORMATS = Formats(
    Format(
        "onnx",
        "ONNX: one self-contained file, batch norms folded, any batch size",
        "onnx",
        "resnext_export.formats.onnx:OnnxBuilder",
    ),
    Format(
        "openvino",
        "OpenVINO IR in one file",
        "onnx",
        "resnext_export.formats.openvino:OpenVinoBuilder",
        scheme="openvino",
    ),
    Format(
        "trt",
        "a TensorRT engine, or a TensorRT-RTX engine if only that is installed",
        "onnx",
        "resnext_export.formats.tensorrt:EngineBuilder",
        EngineChoices,
        scheme="trt",
        profiles=True,
    ),
    Format(
        "trt-rtx",
        "a TensorRT-RTX engine, built without a GPU",
        "onnx",
        "resnext_export.formats.tensorrt:EngineBuilder",
        EngineChoices,
        scheme="trt",
        profiles=True,
    ),
    Format(
        "pt2",
        "a PyTorch AOTInductor package, compiled for machines like this one",
        "weights",
        "resnext_export.formats.pt2:PackageBuilder",
        PackageOptions,
    ),
)
