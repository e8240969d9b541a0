"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resnext.network.config import VARIANTS
from resnext.precision import DEFAULT, PRECISIONS, PRESETS

from .app import as_flags, echo
from .params import MOST_DIGITS, BackendType, NameType, NumbersType
from .sections import option_of

if TYPE_CHECKING:
    from resnext.images.requested import PreprocessingOptions
    from resnext.weights.spec import Weights

F = TypeVar("F", bound=Callable[..., Any])

#: Headings of ``--help`` that several commands have.
RUN = "What to run"
COMPARE = "What to compare with"
OUTPUT = "Output"
PIXELS = "Preprocessing"


def artifact_option(text: str, **settings: Any) -> Callable[[F], F]:
    """Add ``--artifact PATH``."""
    return option_of(RUN)(
        "--artifact", type=click.Path(path_type=Path), metavar="PATH", help=text, **settings
    )


def backend_option(names: Iterable[str], text: str, **settings: Any) -> Callable[[F], F]:
    """Add ``--backend NAME``; an unknown name is refused with the nearest one. If
    ``v2`` is among the names, so is every ``v2:URL``.
    """
    many = settings.pop("many", False)
    return option_of(RUN)(
        "--backend",
        type=BackendType("backend", tuple(names), many=many),
        metavar="NAME[,NAME...]" if many else "NAME",
        help=text,
        **settings,
    )


def trust_options(function: F) -> F:
    """Add ``--require-signature`` and ``--trust KEY``: every artifact that the command reads, it
    reads under them. Goes below ``@guarded``, which reports what is missing.
    """
    option = option_of("Trust")

    @functools.wraps(function)
    def wrapper(*args: Any, require_signature: bool, trust: tuple[Path, ...], **kwargs: Any) -> Any:
        from resnext.artifact.trust import Trust, trusting
        from resnext.errors import UsageError

        if (require_signature or trust) and not kwargs.get("artifact", True):
            raise UsageError("weights are not signed, only artifacts; name one in `artifact`")
        with trusting(Trust(trust, require_signature)):
            return function(*args, **kwargs)

    for add in (
        option(
            "--trust",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="KEY",
            help="Public key (PEM) whose signature counts; may be repeated. Also: RESNEXT_TRUST.",
        ),
        option(
            "--require-signature",
            is_flag=True,
            help=(
                "Refuse an artifact that none of the trusted keys signed. Also:"
                " RESNEXT_REQUIRE_SIGNATURE=1."
            ),
        ),
    ):
        wrapper = add(wrapper)
    return wrapper  # type: ignore[return-value]  # the decorated function keeps its name and options


def seed_option(text: str, section: str) -> Callable[[F], F]:
    """Add ``--seed N``, 0 by default."""
    return option_of(section)(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help=text
    )


def device_option() -> Callable[[F], F]:
    """Add ``--device auto|cpu|cuda``."""
    return option_of("Device")(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Device, for runtimes that support both.",
    )


def gate_option() -> Callable[[F], F]:
    """Add ``--gate NAME``."""
    return option_of(COMPARE)(
        "--gate",
        type=NameType("gate", tuple(PRESETS)),
        default="default",
        show_default=True,
        metavar="NAME",
        help=f"Allowed error relative to what the precision itself loses: {_gates()}.",
    )


def _gates() -> str:
    """The largest errors that each preset allows."""
    ratios = {name: row.gate.max_error_ratio for name, row in PRECISIONS.items()}
    rest = max(ratio for name, ratio in ratios.items() if name != DEFAULT)
    return "; ".join(
        f"{preset} {ratios[DEFAULT] * factor:g} times for {DEFAULT}, {rest * factor:g} for others"
        for preset, factor in PRESETS.items()
    )


def json_option(what: str) -> Callable[[F], F]:
    """Add ``--json PATH``; ``-`` prints JSON alone on stdout."""
    return option_of(OUTPUT)(
        "--json",
        "json_path",
        metavar="PATH",
        help=f"{what}; - writes to stdout, and nothing else is printed there.",
    )


def sbom_option() -> Callable[[F], F]:
    """Add ``--sbom PATH``."""
    return option_of(OUTPUT)(
        "--sbom",
        "sbom_path",
        metavar="PATH",
        help="Write a bill of materials: CycloneDX 1.6 with a model card.",
    )


def weights_options(function: F) -> F:
    """Add ``--model``, ``--weights``, ``--weights-key``, ``--num-classes`` and ``--input-size``."""
    return network_options(function, of=_weights_option)


def network_options(function: F, *, of: Callable[[F], F] | None = None) -> F:
    """Add ``--model``, ``--weights-key``, ``--num-classes`` and ``--input-size``.

    Args:
        function: the command.
        of: adds what these options are about, after the first; None if an argument names it.
    """
    option = option_of("Network")
    for add in (
        option(
            "--input-size",
            metavar="HxW",
            help="Input height and width in pixels, if they differ from the model's.",
        ),
        option(
            "--num-classes",
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of classes, if it differs from the model's.",
        ),
        option(
            "--weights-key",
            metavar="KEY",
            help="State dict in a checkpoint of several, for example state_dict_ema.",
        ),
        of or (lambda function: function),
        option(
            "--model",
            type=NameType("model", tuple(VARIANTS)),
            metavar="NAME",
            help=(
                "Variant of the network; resnext-export --list-models shows all.  [default: the"
                " model that the weights are of, else resnext50_32x4d]"
            ),
        ),
    ):
        function = add(function)
    return function


_weights_option = option_of("Network")(
    "--weights",
    "spec",
    metavar="SPEC",
    help=(
        "seeded[:N], digits, fashion-mnist, the path of a checkpoint, or published weights by name:"
        " torchvision:NAME, timm:NAME, hf:OWNER/REPO[@REVISION] (resnext-export --list-weights)."
        "  [default: the shipped weights if the model has some, else seeded]"
    ),
)


def preprocessing_options(function: F) -> F:
    """Add ``--resize``, ``--crop``, ``--interpolation``, ``--mean``, ``--std`` and
    ``--preprocessing FILE``, which `requested_preprocessing` reads.
    """
    option = option_of(PIXELS)
    for add in (
        preprocessing_file_option(),
        option(
            "--std",
            type=NumbersType(),
            help="Standard deviation of each channel, in units of full scale.",
        ),
        option(
            "--mean",
            type=NumbersType(),
            help="Mean of each channel, in units of full scale (0 to 1).  [default: as --resize]",
        ),
        option(
            "--interpolation",
            type=NameType("interpolation", ("bilinear", "bicubic")),
            metavar="bilinear|bicubic",
            help="Interpolation of the resize.  [default: as --resize]",
        ),
        option(
            "--crop",
            type=float,
            metavar="FRACTION",
            help="Share of the resized shorter side that is kept (timm's crop_pct), instead of"
            " --resize.",
        ),
        option(
            "--resize",
            type=click.IntRange(min=1),
            metavar="N",
            help="Length of the shorter side after resizing, pixels; the center is cropped to the"
            " input size.  [default: what the weights declare, else ImageNet's usual]",
        ),
    ):
        function = add(function)
    return function


def preprocessing_file_option() -> Callable[[F], F]:
    """Add ``--preprocessing FILE``, which `with_file` reads."""
    return option_of(PIXELS)(
        "--preprocessing",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="JSON with these values: a manifest, timm's config.json, or a torchvision transform's"
        " arguments. Other options win over it.",
    )


def requested_preprocessing(
    options: dict[str, Any], input_size: str | None, *, of_artifact: bool
) -> tuple[PreprocessingOptions | None, str | None]:
    """What the options of `preprocessing_options` request, and the input size: ``input_size`` if
    there is one, else that of ``--preprocessing FILE``.

    Args:
        options: their values; None for those that nobody set.
        input_size: as on the command line.
        of_artifact: an artifact is run, which has its own preprocessing.

    Raises:
        UsageError: values that are out of range, or an artifact.
        BadInput: the file cannot be used.
    """
    if all(value is None for value in options.values()):
        return None, input_size
    from resnext.errors import UsageError
    from resnext.images.requested import PreprocessingOptions

    if of_artifact:
        names = ", ".join(f"`{name}`" for name in options)
        raise UsageError("an artifact has its own preprocessing", hint=f"drop {names}")
    path = options.pop("preprocessing")
    values = with_file({**options, "input_size": input_size}, path)
    size = values.pop("input_size")
    return PreprocessingOptions(**values), size


def with_file(requested: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """``requested`` with the values of ``--preprocessing FILE`` in place of None, the input size
    included.
    """
    if path is None:
        return requested
    from dataclasses import asdict

    from resnext.images.requested import read_preprocessing

    options, size = read_preprocessing(path)
    values = {**asdict(options), "input_size": size and f"{size[0]}x{size[1]}"}
    for one, other in (("resize", "crop"), ("crop", "resize")):
        if requested[one] is not None:
            values[other] = None
    return {name: values.get(name) if value is None else value for name, value in requested.items()}


def chosen_weights(
    model: str | None,
    spec: str | None,
    num_classes: int | None,
    input_size: str | None,
    weights_key: str | None = None,
    preprocessing: PreprocessingOptions | None = None,
) -> Weights:
    """Load the weights that the options of `weights_options` name, with the preprocessing of
    `preprocessing_options`, and a note on stderr for each thing that was made of the file.
    """
    from resnext.progress import working
    from resnext.weights.spec import load_weights

    size = None if input_size is None else size_of(input_size)
    with working("loading weights"):
        weights = load_weights(
            spec,
            model,
            num_classes=num_classes,
            input_size=size,
            key=weights_key,
            preprocessing=preprocessing,
        )
    for line in weights.notes:
        echo(f"note: {as_flags(line)}", err=True)
    return weights


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of ``HxW``, or of one number for both."""
    height, cross, width = text.lower().partition("x")
    digits = (height, width) if cross else (height,)
    if not (text.isascii() and all(part.isdigit() and len(part) <= MOST_DIGITS for part in digits)):
        raise click.BadParameter(
            f"{text!r} is not HEIGHTxWIDTH in pixels, for example 224x224",
            param_hint="--input-size",
        )
    return int(height), int(width or height)
