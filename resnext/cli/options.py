"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resnext.network.config import VARIANTS

from .params import MOST_DIGITS, NameType

if TYPE_CHECKING:
    from resnext.weights.spec import Weights

F = TypeVar("F", bound=Callable[..., Any])


def json_option(what: str) -> Callable[[F], F]:
    """Add ``--json PATH``; ``-`` prints JSON alone on stdout."""
    return click.option(
        "--json",
        "json_path",
        metavar="PATH",
        help=f"{what}; - is stdout, and then nothing else is.",
    )


def weights_options(function: F) -> F:
    """Add ``--model``, ``--weights``, ``--num-classes`` and ``--input-size``."""
    for option in (
        click.option(
            "--input-size",
            metavar="HxW",
            help="Input height and width in pixels, where not the variant's own.",
        ),
        click.option(
            "--num-classes",
            type=click.IntRange(min=1),
            help="Classes, where not the variant's own.",
        ),
        click.option(
            "--weights",
            "spec",
            metavar="SPEC",
            help=(
                "seeded[:N], digits, fashion-mnist, or a path to .safetensors or .pth.  "
                "[default: the shipped ones of a shipped model, else seeded]"
            ),
        ),
        click.option(
            "--model",
            type=NameType("model", tuple(VARIANTS)),
            metavar="NAME",
            help=(
                "Variant; resnext-export --list-models shows all.  [default: what the weights"
                " imply, else resnext50_32x4d]"
            ),
        ),
    ):
        function = option(function)
    return function


def chosen_weights(
    model: str | None, spec: str | None, num_classes: int | None, input_size: str | None
) -> Weights:
    """Load what the options of `weights_options` name."""
    from resnext.progress import working
    from resnext.weights.spec import load_weights

    size = None if input_size is None else _size(input_size)
    with working("loading weights"):
        return load_weights(spec, model, num_classes=num_classes, input_size=size)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.lower().partition("x")
    digits = (height, width) if cross else (height,)
    if not (text.isascii() and all(part.isdigit() and len(part) <= MOST_DIGITS for part in digits)):
        raise click.BadParameter(
            f"{text!r} is not HEIGHTxWIDTH in pixels, for example 224x224",
            param_hint="--input-size",
        )
    return int(height), int(width or height)
