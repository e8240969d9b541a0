"""The fields of an export request, each with how the command line spells and explains it.

Plain dataclasses, so that ``--help`` need not load pydantic; `resnext_export.request` validates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_origin, get_type_hints

from annotated_types import Ge, Interval

from resnext.network.config import VARIANTS
from resnext.precision import Precision

#: Runtimes that a quantized graph can be laid out for.
Runtime: TypeAlias = Literal["trt", "ort", "openvino"]
#: How calibration judges outliers.
Method: TypeAlias = Literal["minmax", "percentile"]
#: Number of calibration images by default.
IMAGES = 128
#: Opset of an ONNX graph by default.
OPSET = 20


@dataclass(frozen=True)
class Option:
    """One option. Its type and limits are those of the field that it annotates.

    Attributes:
        help: what it does, with the default if there is one; other fields in backticks.
        section: heading in ``--help``; "" means that of the options model.
        flag: its name there, if it is not the field's.
        metavar: placeholder of the value.
        kind: what one value is called in an error message.
        choices: allowed names, if the field's type does not list them.
        graph: it is about an ONNX graph, so it does not apply to a format made from the weights.
    """

    help: str
    section: str = ""
    flag: str = ""
    metavar: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()
    graph: bool = False


@dataclass(frozen=True)
class FormatOptions:
    """Options that only some formats have; a format with options derives its own dataclass.

    Attributes:
        section: heading in ``--help``.
        title: what the options are for, for the message that refuses one elsewhere.
    """

    section: ClassVar[str] = ""
    title: ClassVar[str] = ""


def options_of(model: type[Any]) -> dict[str, tuple[Option, Any]]:
    """Each annotated field of a dataclass: its option, and its type with limits."""
    options = {}
    for name, annotation in get_type_hints(model, include_extras=True).items():
        if get_origin(annotation) is Annotated:
            (option,) = (each for each in annotation.__metadata__ if isinstance(each, Option))
            options[name] = (option, annotation)
    return options


@dataclass(frozen=True)
class RequestFields:
    """The fields of an export request that all formats share. None means: not requested."""

    format: str = "onnx"
    model: Annotated[
        str | None,
        Option(
            "Variant; `list_models` shows all.  [default: the model that the"
            " weights are of, else resnext50_32x4d]",
            "Network",
            metavar="NAME",
            choices=tuple(VARIANTS),
        ),
    ] = None
    weights: Annotated[
        str | None,
        Option(
            "seeded[:N], digits, fashion-mnist, the path of a checkpoint, or published weights by"
            " name: torchvision:NAME, timm:NAME, hf:OWNER/REPO[@REVISION] (see `list_weights`)."
            "  [default: the shipped weights of a shipped model, else seeded]",
            "Network",
            metavar="SPEC",
        ),
    ] = None
    weights_key: Annotated[
        str | None,
        Option(
            "State dict in a checkpoint of several, for example state_dict_ema.",
            "Network",
            metavar="KEY",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        Ge(1),
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
    resize: Annotated[
        int | None,
        Ge(1),
        Option(
            "Length of the shorter side after resizing, pixels; the center is cropped to the input"
            " size.  [default: what the weights declare, else ImageNet's usual]",
            "Preprocessing",
        ),
    ] = None
    crop: Annotated[
        float | None,
        Option(
            "Share of the resized shorter side that is kept (timm's crop_pct), instead of"
            " `resize`.",
            "Preprocessing",
            metavar="FRACTION",
        ),
    ] = None
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None,
        Option("Interpolation of the resize.  [default: as `resize`]", "Preprocessing"),
    ] = None
    mean: Annotated[
        tuple[float, ...] | None,
        Option(
            "Mean of each channel, in units of full scale (0 to 1).  [default: as `resize`]",
            "Preprocessing",
            metavar="A,B,C",
        ),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Option(
            "Standard deviation of each channel, in units of full scale.  [default: as `resize`]",
            "Preprocessing",
            metavar="A,B,C",
        ),
    ] = None
    bake_preprocessing: Annotated[
        bool, Option("Take uint8 NHWC pixels and normalize inside the graph.", "Network")
    ] = False
    conformance_kit: Annotated[
        bool,
        Option(
            "Put eight odd pictures with their exact pixels and logits beside the file, to test a"
            " port of the preprocessing with.",
            "Preprocessing",
        ),
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
    opset: Annotated[
        int | None,
        # PyTorch's exporter has no implementation below, and its converter's last is the highest
        Interval(ge=18, le=25),
        Option(
            f"ONNX operator set. bf16 needs 22, fp8 19.  [default: {OPSET}, bf16 22]",
            "Network",
            metavar="N",
            graph=True,
        ),
    ] = None
    runs_on: Annotated[
        str | None,
        Option(
            "Oldest release of ONNX Runtime that the file must run on, onnxruntime-1.17 for"
            " example: lowers the opset as far as it takes.",
            "Network",
            metavar="RELEASE",
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
            "Runtime to quantize for: each wants its own Q/DQ layout. `merge_groups` auto times on"
            " it, too.  [default: ort for ONNX, else the format's]",
            "Precision",
            flag="for",
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
        Interval(ge=1, le=100_000),
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
            "How activation outliers are handled: kept, or the rarest 0.001 % clipped."
            "  [default: minmax]",
            "Precision",
            kind="method",
            graph=True,
        ),
    ] = None
    keep_fp32: Annotated[
        tuple[str, ...] | None,
        Option(
            "Layers (layer1.0.conv2), blocks (layer1.0) or stages (layer1) that stay float: fp32 in"
            " an fp16, bf16 or int8 network, fp16 in an fp8 one.",
            "Precision",
            metavar="NAME[,...]",
            graph=True,
        ),
    ] = None
    equalize: Annotated[
        bool,
        Option(
            "Even out the channels' ranges between two convolutions before int8 or fp8: the same"
            " function, and it mends channels that are much wider than the others.",
            "Precision",
            graph=True,
        ),
    ] = False
    correct_bias: Annotated[
        bool,
        Option(
            "Take the mean error of rounded weights out of the biases of int8 and fp8.",
            "Precision",
            graph=True,
        ),
    ] = False
    merge_groups: Annotated[
        Annotated[int, Interval(ge=2, le=4096)] | Literal["auto"] | None,
        Option(
            "Merge convolution groups until each has N input channels: exact, and faster on"
            " runtimes that are slow on narrow groups; auto times each stage's choices here and"
            " keeps the fastest.",
            "Precision",
            metavar="auto|N",
            graph=True,
        ),
    ] = None
    options: FormatOptions = field(default_factory=FormatOptions)


#: Options that every format shares.
FIELDS = {name: option for name, (option, _) in options_of(RequestFields).items()}
