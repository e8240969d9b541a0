"""Everything an export needs to know, for every format: from Python, flags or a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from resnext.artifact.specs import BatchRange
from resnext.errors import ResnextError, UnknownName, UsageError
from resnext.network.config import VARIANTS
from resnext.precision import HALVES, QUANTIZED, Precision

from .options import IMAGES, FormatOptions, Method, Option, Runtime
from .registry import FORMATS, Format

if TYPE_CHECKING:
    from resnext.weights.spec import Weights


class ExportRequest(BaseModel):
    """Everything an export needs to know, for every format. None means: not asked for.

    Options of one format may be given beside the others; they are kept in ``options``.

    Raises:
        UsageError: a value that is not allowed, or options that do not go together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "onnx"
    model: Annotated[
        str | None,
        Option(
            "Variant; resnext-export --list-models shows all.  [default: what the weights imply,"
            " else resnext50_32x4d]",
            "Network",
            metavar="NAME",
            choices=tuple(VARIANTS),
        ),
    ] = None
    weights: Annotated[
        str | None,
        Option(
            "seeded[:N], digits, fashion-mnist, or a path to .safetensors or .pth.  [default: the"
            " shipped weights of a shipped model, else seeded]",
            "Network",
            metavar="SPEC",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        Field(ge=1),
        Option("Number of classes, if it differs from the model's.", "Network"),
    ] = None
    input_size: Annotated[
        str | None,
        Option(
            "Input height and width in pixels, if they differ from the model's.",
            "Network",
            metavar="HxW",
        ),
    ] = None
    bake_preprocessing: Annotated[
        bool, Option("Take uint8 NHWC pixels and normalize inside the graph.", "Network")
    ] = False
    batch: Annotated[
        str | None,
        Option(
            "Batch sizes to support: a range (no MAX: no limit) or one fixed size; for an engine,"
            " one or several ranges with MAX, each an optimization profile.  [default: 1:8, for an"
            " engine 1:8:64]",
            "Network",
            metavar="MIN:OPT[:MAX]|N[,...]",
        ),
    ] = None
    onnx: Annotated[
        Path | None,
        Option(
            "ONNX artifact to start from.  [default: exported once into the cache]",
            "Network",
            metavar="PATH",
            graph=True,
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        Option("Element type of weights and activations.  [default: fp32]", "Precision"),
    ] = None
    io: Annotated[
        Literal["float32", "native"] | None,
        Option(
            "Element type of an fp16 or bf16 network's input and output.  [default: float32]",
            "Precision",
            kind="kind of input and output",
            graph=True,
        ),
    ] = None
    runtime: Annotated[
        Runtime | None,
        Option(
            "Runtime to quantize for: each wants its own Q/DQ layout. --merge-groups=auto times on"
            " it, too.  [default: ort for ONNX, else the format's]",
            "Precision",
            flag="--for",
            graph=True,
        ),
    ] = None
    calibration: Annotated[
        str | None,
        Option(
            "Images that int8 and fp8 take activation ranges from; random is noise.  [default: what"
            " shipped weights were trained on]",
            "Precision",
            metavar="digits|fashion-mnist|FOLDER|random",
            graph=True,
        ),
    ] = None
    calibration_images: Annotated[
        int | None,
        Field(ge=1, le=100_000),
        Option(
            f"Number of calibration images.  [default: {IMAGES}]",
            "Precision",
            metavar="N",
            graph=True,
        ),
    ] = None
    calibration_method: Annotated[
        Method | None,
        Option(
            "How activation outliers are handled: kept, clipped where the histogram loses least, or"
            " the rarest 0.01 % clipped.  [default: minmax]",
            "Precision",
            kind="method",
            graph=True,
        ),
    ] = None
    merge_groups: Annotated[
        Annotated[int, Field(ge=2, le=4096)] | Literal["auto"] | None,
        Option(
            "Merge convolution groups until each has N input channels: exact, and faster on"
            " runtimes that are slow on narrow groups; auto times each stage's choices here and"
            " keeps the fastest.",
            "Precision",
            metavar="auto|N",
            graph=True,
        ),
    ] = None
    options: SerializeAsAny[FormatOptions] = FormatOptions()

    def __init__(self, **fields: Any) -> None:  # the format's options are no fields of this class
        try:
            super().__init__(**fields)
        except ValidationError as exc:
            raise _usage_error(exc) from exc

    @model_validator(mode="before")
    @classmethod
    def _options_of_the_format(cls, data: Any) -> Any:
        data = dict(data)
        row = FORMATS[data.get("format", "onnx")]
        options = data.pop("options", {})
        if isinstance(options, FormatOptions):
            options = options.model_dump(exclude_unset=True)
        others = {name: data.pop(name) for name in list(data) if name not in cls.model_fields}
        for name in (options := {**options, **others}):
            if name not in row.options.model_fields:
                _refuse_option(name)
        return {**data, "options": row.options(**options)}

    @model_validator(mode="after")
    def _go_together(self) -> ExportRequest:
        row, spec = FORMATS[self.format], dict(self)
        given = [name for name in FIELDS if FIELDS[name].graph and spec[name] is not None]
        if row.source == "weights" and given:
            raise UsageError(
                f"a .{row.name} package is made from the weights, not from an ONNX artifact; drop"
                f" `{given[0]}`"
            )
        for name in ("calibration", "calibration_images", "calibration_method"):
            if spec[name] is not None and self.precision not in QUANTIZED:
                raise UsageError(
                    f"`{name}` is for int8 and fp8: use `precision` int8, or drop `{name}`"
                )
        if self.io is not None and self.precision not in HALVES:
            raise UsageError(
                "`io` is for fp16 and bf16, which can have native inputs and outputs: use"
                " `precision` fp16, or drop `io`"
            )
        if self.runtime is not None:
            self._check_runtime(row, self.runtime)
        if self.merge_groups == "auto" and self.scheme == "trt":
            raise UsageError(
                "`merge_groups` auto times on a CPU: use `runtime` ort or openvino, or a number of"
                " channels"
            )
        if self.onnx is not None:
            self._check_start()
        self._check_batch(row)
        self.pixels()
        return self

    def _check_runtime(self, row: Format, runtime: Runtime) -> None:
        if self.precision not in QUANTIZED and self.merge_groups != "auto":
            raise UsageError(
                "`runtime` says what an int8 graph is for: use `precision` int8, or drop `runtime`"
            )
        if self.precision == "fp8" and runtime != "trt":
            raise UsageError("fp8 is for TensorRT; use `runtime` trt")
        if self.format != "onnx" and runtime != row.scheme:
            raise UsageError(
                f"`runtime` {runtime} and `format` {self.format} are for two runtimes; drop"
                " `runtime`"
            )

    def _check_start(self) -> None:
        if self.format == "onnx" and not self.derives:
            raise UsageError(
                "`onnx` is what to start from: it takes another `format`, a `precision` or"
                " `merge_groups`"
            )
        for name in ("model", "num_classes", "input_size", "batch", "bake_preprocessing"):
            if name == "batch" and FORMATS[self.format].profiles:
                continue
            if getattr(self, name) not in (None, False):
                raise UsageError(f"the ONNX artifact has its own {name.replace('_', '-')}; drop it")

    def _check_batch(self, row: Format) -> None:
        for profile in self.profiles():
            if row.profiles and profile.max is None:
                sizes = f"{profile.min}:{profile.opt}"
                raise UsageError(
                    f"an engine needs an upper limit: `batch` {sizes}:MAX, for example"
                    f" {sizes}:{profile.opt * 8}"
                )

    @property
    def derives(self) -> bool:
        """Whether the float32 ONNX graph has to be changed: another precision, merged groups."""
        return self.precision not in (None, "fp32") or self.merge_groups is not None

    @property
    def scheme(self) -> Runtime:
        """Runtime that a quantized graph is laid out for, and that merged groups are timed on."""
        return self.runtime or ("trt" if self.precision == "fp8" else FORMATS[self.format].scheme)

    def profiles(self) -> tuple[BatchRange, ...]:
        """Batch sizes: one range, or an engine's optimization profiles."""
        if not FORMATS[self.format].profiles:
            return (BatchRange.parse(self.batch or "1:8"),)
        return tuple(BatchRange.parse(part.strip()) for part in (self.batch or "1:8:64").split(","))

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

    def parent(self) -> ExportRequest | None:
        """The request for the artifact that this one is made from; None: from the weights."""
        row = FORMATS[self.format]
        if row.source == "weights" or (self.format == "onnx" and not self.derives):
            return None
        fields = dict(self) | {"format": "onnx", "options": FormatOptions(), "onnx": None}
        if self.format == "onnx":
            graph = [n for n in FIELDS if FIELDS[n].section == "Precision"]
            fields |= dict.fromkeys(graph)
        else:
            auto = self.merge_groups == "auto"
            fields["runtime"] = self.scheme if self.precision in QUANTIZED or auto else None
            fields["batch"] = None if row.profiles else self.batch
        return ExportRequest(**fields)

    def record(self) -> dict[str, Any]:
        """What a manifest stores; `ExportRequest` takes it back."""
        return {
            "format": self.format,
            **self.model_dump(mode="json", exclude_defaults=True),
        }

    def folder(self, weights: Weights, precision: str, kind: str) -> Path:
        """A folder name that says what is in it.

        Args:
            weights: what was exported.
            precision: the artifact's.
            kind: the artifact's.
        """
        from resnext.network.config import variant_name
        from resnext.weights.shipped import SHIPPED

        if kind == "onnx" and precision == "int8" and self.runtime not in (None, "ort"):
            precision += f"-for-{self.runtime}"
        if self.merge_groups is not None:
            precision += "-merged"
        config, source = weights.config, weights.source
        if source in SHIPPED and SHIPPED[source].config == config:
            return Path(f"{source}-{precision}-{kind}")
        name = (
            variant_name(config)
            or f"custom_{config.input_size[0]}x{config.input_size[1]}_{config.num_classes}"
        )
        stem = Path(source).stem if Path(source).is_absolute() else source.replace(":", "")
        return Path(f"{name}-{stem}-{precision}-{kind}")


def options_of(model: type[BaseModel]) -> dict[str, Option]:
    """The options that the fields of ``model`` are annotated with."""
    return {
        name: option
        for name, field in model.model_fields.items()
        for option in field.metadata
        if isinstance(option, Option)
    }


#: Options that every format shares.
FIELDS = options_of(ExportRequest)


def _refuse_option(name: str) -> None:
    rows = [row for row in FORMATS.values() if name in row.options.model_fields]
    if not rows:
        known = {n for row in FORMATS.values() for n in row.options.model_fields}
        raise UnknownName("option", name, [*ExportRequest.model_fields, *sorted(known)])
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
    where = str(first["loc"][0]) if first["loc"] else "request"
    return UsageError(f"`{where}` {first['input']!r}: {first['msg']}")
