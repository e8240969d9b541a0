"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resnext.network.config import VARIANTS
from resnext.precision import DEFAULT, PRECISIONS, PRESETS

from .params import MOST_DIGITS, NameType
from .sections import option_of

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

F = TypeVar("F", bound=Callable[..., Any])

#: Headings of ``--help`` that several commands have.
RUN = "What to run"
COMPARE = "What to compare with"
OUTPUT = "Output"


def artifact_option(text: str, **settings: Any) -> Callable[[F], F]:
    """Add ``--artifact PATH``."""
    return option_of(RUN)(
        "--artifact", type=click.Path(path_type=Path), metavar="PATH", help=text, **settings
    )


def backend_option(names: Iterable[str], text: str, **settings: Any) -> Callable[[F], F]:
    """Add ``--backend NAME``; an unknown name is refused with the nearest one."""
    many = settings.pop("many", False)
    return option_of(RUN)(
        "--backend",
        type=NameType("backend", tuple(names), many=many),
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
    """Add ``--model``, ``--weights``, ``--num-classes`` and ``--input-size``."""
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
            "--weights",
            "spec",
            metavar="SPEC",
            help=(
                "seeded[:N], digits, fashion-mnist, or a path to .safetensors or .pth.  "
                "[default: the shipped weights if the model has some, else seeded]"
            ),
        ),
        option(
            "--model",
            type=NameType("model", tuple(VARIANTS)),
            metavar="NAME",
            help=(
                "Variant of the network; resnext-export --list-models shows all.  [default: the"
                " model that the weights declare, else resnext50_32x4d]"
            ),
        ),
    ):
        function = add(function)
    return function


def chosen_weights(
    model: str | None, spec: str | None, num_classes: int | None, input_size: str | None
) -> Weights:
    """Load the weights that the options of `weights_options` name."""
    from resnext.progress import working
    from resnext.weights.spec import load_weights

    size = None if input_size is None else size_of(input_size)
    with working("loading weights"):
        return load_weights(spec, model, num_classes=num_classes, input_size=size)


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
