"""Everything an export needs to know, for every format: from Python, flags or a manifest."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from resnext.artifact.files import Artifact
from resnext.artifact.specs import BatchRange
from resnext.errors import ResnextError, UnknownName, UsageError
from resnext.images.requested import PreprocessingOptions
from resnext.network.config import ResNeXtConfig, variant_name
from resnext.network.layers import layers, layers_of
from resnext.precision import DEFAULT, HALVES, PRECISIONS, QUANTIZED, Numerics, Precision
from resnext.readers.files import check_utf8
from resnext.runtimes.ort.releases import Release, release_named
from resnext.runtimes.registry import RUNTIMES
from resnext.weights.hub.spelling import is_named
from resnext.weights.shipped import SHIPPED

from .options import FIELDS, OPSET, FormatOptions, RequestFields, Runtime, options_of
from .registry import FORMATS, Format

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


#: Names of the fields.
NAMES = tuple(each.name for each in dataclasses.fields(RequestFields))
#: Those of them that change the weights' preprocessing.
PREPROCESSING = tuple(each.name for each in dataclasses.fields(PreprocessingOptions))
_QUANTIZING = (
    *("calibration", "calibration_images", "calibration_method"),
    *("equalize", "correct_bias"),
)
_JSON = TypeAdapter(dict[str, Any])
_STAGE_WIDTH = re.compile(r"([A-Za-z0-9_.]{1,64})=([0-9]{1,4})")
#: Fields that an ONNX artifact to start from has settled.
_SETTLED = (
    *("model", "weights_key", "num_classes", "input_size"),
    *("batch", "bake_preprocessing"),
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Checked(RequestFields):
    """The fields, validated together."""

    @model_validator(mode="before")
    @classmethod
    def _options_of_the_format(cls, data: Any) -> Any:
        data = dict(getattr(data, "kwargs", data) or {})
        row = FORMATS[data.get("format", "onnx")]
        options = data.pop("options", {})
        if isinstance(options, FormatOptions):
            options = _changed(options)
        others = {name: data.pop(name) for name in list(data) if name not in NAMES}
        width = data.get("merge_groups")
        if isinstance(width, str) and width.isascii() and width.isdigit():
            data["merge_groups"] = int(width)
        for name in (options := {**options, **others}):
            if name not in options_of(row.options):
                _refuse_option(name)
        return {**data, "options": TypeAdapter(row.options).validate_python(options)}

    @model_validator(mode="after")
    def _go_together(self) -> _Checked:
        row = FORMATS[self.format]
        graph_only = [
            name
            for name in FIELDS
            if FIELDS[name].graph and getattr(self, name) not in (None, False)
        ]
        if row.source == "weights" and graph_only:
            raise UsageError(
                f"a .{row.name} package is made from the weights, not from an ONNX artifact; drop"
                f" `{graph_only[0]}`"
            )
        if self.precision not in QUANTIZED:
            for name in self.quantizing:
                raise UsageError(
                    f"`{name}` is for int8 and fp8: use `precision` int8, or drop `{name}`"
                )
        if self.keep_fp32 is not None and self.precision not in (*HALVES, *QUANTIZED):
            raise UsageError(
                "`keep_fp32` is for fp16, bf16, int8 and fp8, which the other layers are in: use"
                " `precision` int8, or drop `keep_fp32`"
            )
        if self.keep_fp32 is not None and self.precision in HALVES and row.scheme == "openvino":
            raise UsageError(
                f"OpenVINO computes all of an {self.precision} network in {self.precision},"
                " whatever the file says: use `precision` int8, or drop `keep_fp32`"
            )
        if self.keep_fp32 == ():
            raise UsageError("`keep_fp32` names no layer; drop it")
        if self.io is not None and self.precision not in HALVES:
            raise UsageError(
                "`io` is for fp16 and bf16, which can have native inputs and outputs: use"
                " `precision` fp16, or drop `io`"
            )
        if self.runtime is not None:
            self._check_runtime(row, self.runtime)
        self.stage_widths()
        if self.merge_groups == "auto" and self.scheme == "trt":
            raise UsageError(
                "`merge_groups` auto times on a CPU: use `runtime` ort or openvino, or a number of"
                " channels"
            )
        if self.onnx is not None:
            self._check_start()
        self._check_opset(row)
        self._check_batch(row)
        self.pixels()
        self.preprocessing()
        return self

    def _check_runtime(self, row: Format, runtime: Runtime) -> None:
        if self.precision not in QUANTIZED and self.merge_groups != "auto":
            raise UsageError(
                "`runtime` says what an int8 graph is for: use `precision` int8, or drop `runtime`"
            )
        if (only := self.numerics.only_for) not in (None, runtime):
            raise UsageError(f"{self.precision} is for TensorRT; use `runtime` {only}")
        if not row.is_source and runtime != row.scheme:
            raise UsageError(
                f"`runtime` {runtime} and `format` {self.format} are for two runtimes; drop"
                " `runtime`"
            )

    def _check_start(self) -> None:
        for name in _SETTLED:
            if name == "input_size":  # a file from elsewhere may leave it open
                continue
            if name == "batch" and FORMATS[self.format].profiles:
                continue
            if getattr(self, name) not in (None, False):
                raise UsageError(f"the ONNX artifact has its own {name.replace('_', '-')}; drop it")

    def _check_opset(self, row: Format) -> None:
        if self.onnx is not None and (self.opset is not None or self.runs_on is not None):
            name = "runs_on" if self.opset is None else "opset"
            raise UsageError(f"the ONNX artifact has its own opset; drop `{name}`")
        least = self.numerics.least_opset
        if self.opset is not None and self.opset < least:
            raise UsageError(
                f"{self.precision} needs opset {least}, not {self.opset}: drop `opset`, or use"
                f" {least}"
            )
        if self.runs_on is None:
            return
        release = release_named(self.runs_on)
        if not row.is_source:
            raise UsageError(
                "`runs_on` is about an ONNX file: use `format` onnx, or drop `runs_on`"
            )
        if (precision := self.precision or DEFAULT) not in (able := RUNTIMES["ort-cpu"].precisions):
            raise UsageError(
                f"no release of ONNX Runtime computes {precision} on a CPU: use `precision`"
                f" {' or '.join(able)}, or drop `runs_on`"
            )
        if self.opset is not None and self.opset > (highest := self._highest(release)):
            raise UsageError(
                f"{self.runs_on} takes opset {highest} of {precision} at most, not {self.opset}:"
                " drop `opset`, or name a newer release"
            )

    def _highest(self, release: Release) -> int:
        return release.quantized_opset if self.numerics.calibrated else release.opset

    def _check_batch(self, row: Format) -> None:
        for profile in self.profiles():
            if row.profiles and profile.max is None:
                sizes = f"{profile.min}:{profile.opt}"
                raise UsageError(
                    f"an engine needs an upper limit: `batch` {sizes}:MAX, for example"
                    f" {sizes}:{profile.opt * 8}"
                )

    @property
    def numerics(self) -> Numerics:
        """Everything about the precision."""
        return PRECISIONS[self.precision or DEFAULT]

    @property
    def quantizing(self) -> tuple[str, ...]:
        """The requested fields that say how to quantize."""
        return tuple(name for name in _QUANTIZING if getattr(self, name) not in (None, False))

    @property
    def derives(self) -> bool:
        """Whether the float32 ONNX graph has to be changed: another precision, merged groups."""
        return self.precision not in (None, DEFAULT) or self.merge_groups is not None

    @property
    def scheme(self) -> Runtime:
        """Runtime that a quantized graph is laid out for, and that merged groups are timed on."""
        return self.runtime or self.numerics.only_for or FORMATS[self.format].scheme

    @property
    def graph_opset(self) -> int:
        """Opset that the network is exported to ONNX with. Bf16 raises the default afterwards."""
        if self.opset is not None:
            return self.opset
        return (
            OPSET
            if self.runs_on is None
            else min(OPSET, self._highest(release_named(self.runs_on)))
        )

    def profiles(self) -> tuple[BatchRange, ...]:
        """Batch sizes: one range, or an engine's optimization profiles."""
        if not FORMATS[self.format].profiles:
            return (BatchRange.parse(self.batch or "1:8"),)
        return tuple(BatchRange.parse(part.strip()) for part in (self.batch or "1:8:64").split(","))

    def preprocessing(self) -> PreprocessingOptions:
        """What to change in the preprocessing that the weights declare, or that is assumed."""
        return PreprocessingOptions(**{name: getattr(self, name) for name in PREPROCESSING})

    def stage_widths(self) -> dict[str, int]:
        """Minimum input channels of a group by stage, if ``merge_groups`` names stages.

        Raises:
            UsageError: it is not written as ``layer1=16,layer3=32``.
        """
        if not isinstance(self.merge_groups, str) or self.merge_groups == "auto":
            return {}
        widths: dict[str, int] = {}
        for part in self.merge_groups.split(","):
            match = _STAGE_WIDTH.fullmatch(part.strip())
            if match is None or not 2 <= int(match[2]) <= 4096 or match[1] in widths:
                raise UsageError(
                    f"`merge_groups` {self.merge_groups!r} must be auto, a number of channels from"
                    " 2 to 4096, or one for each of some stages: layer1=16,layer3=32"
                )
            widths[match[1]] = int(match[2])
        return widths

    def pixels(self) -> tuple[int, int] | None:
        """Input height and width."""
        if (text := self.input_size) is None:
            return None
        height, cross, width = text.lower().partition("x")
        digits = (height, width) if cross else (height,)
        if not (text.isascii() and all(part.isdigit() and len(part) <= 6 for part in digits)):
            raise UsageError(
                f"`input_size` {text!r} is not HEIGHTxWIDTH in pixels, for example 224x224"
            )
        return int(height), int(width or height)


class ExportRequest(_Checked):
    """Everything an export needs to know, for every format: a frozen dataclass.

    Options of one format may stand beside the fields of `RequestFields`; they end up in
    ``options``.

    Raises:
        UsageError: a value that is not allowed, or options that do not go together.
        BadInput: a path that is not UTF-8.
    """

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            if isinstance(value, str | Path):
                check_utf8(value, f"`{name}`")  # manifests hold requests
        try:
            super().__init__(**fields)
        except ValidationError as exc:
            raise _usage_error(exc) from exc

    def steps(self, start: Precision | None = None) -> tuple[ExportRequest, ...]:
        """What to make, in this order: each from what the one before made, the last is this one.

        Args:
            start: precision of the artifact that ``onnx`` names; None if it names none, and the
                first step is made from the weights.

        Raises:
            UsageError: the artifact in ``onnx`` has another precision than the request.
        """
        parent = self.parent()
        if parent is None:
            return (self,)
        if start is None:
            return (*parent.steps(), self)
        if FORMATS[self.format].is_source:
            return (self,)
        if parent.derives and (parent.precision != start or parent.merge_groups is not None):
            return (parent, self)
        if self.precision not in (None, start):
            raise UsageError(
                f"{self.onnx} is {start}, not {self.precision}; drop `precision`, or start from the"
                " float32 export"
            )
        return (self,)

    def parent(self) -> ExportRequest | None:
        """The request for the artifact that this one is made from; None: from the weights."""
        row = FORMATS[self.format]
        if row.source == "weights" or (row.is_source and not self.derives):
            return None
        fields: dict[str, Any] = {"format": row.source, "options": FormatOptions(), "onnx": None}
        if self.runs_on is not None:  # of a float network it may allow more
            fields |= {"opset": self.graph_opset, "runs_on": None}
        if row.is_source:
            fields |= {
                each.name: each.default
                for each in dataclasses.fields(RequestFields)
                if each.name in FIELDS and FIELDS[each.name].section == "Precision"
            }
        else:
            auto = self.merge_groups == "auto"
            fields["runtime"] = self.scheme if self.numerics.calibrated or auto else None
            fields["batch"] = None if row.profiles else self.batch
        return replace(self, **fields)

    def kept(self, config: ResNeXtConfig) -> tuple[str, ...]:
        """The layers that `keep_fp32` stands for, in the network ``config``.

        Raises:
            UnknownName: the network has nothing of a name.
            UsageError: they are all that could be in low precision.
        """
        names = layers_of(config, self.keep_fp32 or ())
        low = {layer.name for layer in layers(config)} - {*names}
        if not low or (low == {"fc"} and self.numerics.calibrated):
            raise UsageError(
                f"`keep_fp32` names every layer, so that nothing is left in {self.precision}: name"
                " fewer, or use a wider `precision`"
            )
        return names

    def images(self, weights: Weights) -> str:
        """Name of the images to calibrate on; none are read.

        Args:
            weights: what is exported; shipped weights come with images.

        Raises:
            UsageError: none were named, and ``weights`` come with none.
        """
        if self.calibration is not None:
            return self.calibration
        if weights.source in SHIPPED and SHIPPED[weights.source].config == weights.config:
            return weights.source
        raise UsageError(
            "int8 and fp8 need images to calibrate on: `calibration` FOLDER, with pictures as the"
            " network will see them (or digits, or fashion-mnist; random is noise, and only good"
            " for trying speed)"
        )

    def record(self) -> dict[str, Any]:
        """What a manifest stores; `ExportRequest` takes it back."""
        plain = _JSON.dump_python(_changed(self), mode="json")
        options = _JSON.dump_python(_changed(self.options), mode="json")
        return {"format": self.format, **plain, **({"options": options} if options else {})}

    def folder(self, weights: Weights | Artifact, precision: str, kind: str) -> Path:
        """A folder name that says what is in it.

        Args:
            weights: what was exported: weights, or an ONNX file from elsewhere.
            precision: the artifact's.
            kind: the artifact's.
        """
        row = FORMATS[self.format]
        laid_out = self.numerics.calibrated and self.numerics.only_for is None
        if row.is_source and laid_out and self.scheme != row.scheme:
            precision += f"-for-{self.scheme}"
        if self.equalize:
            precision += "-equalized"
        if self.correct_bias:
            precision += "-corrected"
        if self.merge_groups is not None:
            precision += "-merged"
        if self.keep_fp32 is not None:
            precision += "-mixed"
        if isinstance(weights, Artifact):
            stem = re.sub(r"[^A-Za-z0-9_.-]", "_", weights.path.stem)
            return Path(f"{stem}-{precision}-{kind}")
        config, source = weights.config, weights.source
        if source in SHIPPED and SHIPPED[source].config == config:
            return Path(f"{source}-{precision}-{kind}")
        if is_named(source):
            stem = re.sub(r"[^\w.-]+", "-", source)
            return Path(f"{stem}-{precision}-{kind}")
        name = (
            variant_name(config)
            or f"custom_{config.input_size[0]}x{config.input_size[1]}_{config.num_classes}"
        )
        stem = Path(source).stem if Path(source).is_absolute() else source.replace(":", "")
        return Path(f"{name}-{stem}-{precision}-{kind}")


def _changed(fields: RequestFields | FormatOptions) -> dict[str, Any]:
    """What is not the default."""
    return {
        each.name: getattr(fields, each.name)
        for each in dataclasses.fields(fields)
        if each.name != "options" and getattr(fields, each.name) != each.default
    }


def _refuse_option(name: str) -> None:
    rows = [row for row in FORMATS.values() if name in options_of(row.options)]
    if not rows:
        known = {n for row in FORMATS.values() for n in options_of(row.options)}
        raise UnknownName("option", name, [*NAMES, *sorted(known)])
    raise UsageError(
        f"`{name}` is for {rows[0].options.title}`format` {' or '.join(row.name for row in rows)}"
    )


def _usage_error(exc: ValidationError) -> ResnextError:
    """The first thing that is wrong, as the toolkit's own error."""
    first = exc.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValidationError):
        return _usage_error(cause)
    if isinstance(cause, ResnextError):
        return cause
    field = str(first["loc"][0]) if first["loc"] else "request"
    return UsageError(f"`{field}` {first['input']!r}: {first['msg']}")
