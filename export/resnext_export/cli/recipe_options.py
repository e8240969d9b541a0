"""Options of ``resnext-export`` that make a new ONNX artifact of another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

import click

from resnext.cli.params import NameType
from resnext.errors import UsageError
from resnext.precision import HALVES, QUANTIZED, Precision
from resnext_export.recipe import IMAGES, Calibration, Method, Recipe, Runtime

F = TypeVar("F", bound=Callable[..., Any])

#: Options of this module, by the names that click gives them.
NAMES = ("io", "runtime", "calibration", "calibration_images", "calibration_method", "merge_groups")
#: What an int8 graph is for where nothing is said, by format.
_NATURAL: dict[str, Runtime] = {
    "onnx": "ort",
    "openvino": "openvino",
    "trt": "trt",
    "trt-rtx": "trt",
}


class MergeType(NameType):
    """``auto``, or input channels of a group."""

    def __init__(self) -> None:
        super().__init__("width", ("auto",))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check and convert."""
        if value == "auto" or not isinstance(value, str):
            return value
        if not (value.isascii() and value.isdigit() and 2 <= int(value) <= 4096):
            self.fail(f"{value!r} must be auto, or a number of channels from 2 to 4096", param, ctx)
        return int(value)


@dataclass(frozen=True)
class RecipeRequest:
    """What was asked for on the command line; None is what was not."""

    io: str | None
    runtime: Runtime | None
    calibration: str | None
    calibration_images: int | None
    calibration_method: Method | None
    merge_groups: Any

    def recipe(self, precision: Precision | None, target: str, batch: int = 8) -> Recipe | None:
        """The recipe, or None where nothing has to be made anew.

        Args:
            precision: asked for, or None.
            target: the format.
            batch: that ``--merge-groups auto`` times at.

        Raises:
            UsageError: options that do not go together.
        """
        for name in ("calibration", "calibration_images", "calibration_method"):
            if getattr(self, name) is not None and precision not in QUANTIZED:
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option} is for int8 and fp8: give --precision int8, or drop {option}"
                )
        if self.io is not None and precision not in HALVES:
            raise UsageError("--io is for fp16 and bf16: give --precision fp16, or drop --io")
        if self.runtime is not None and precision not in QUANTIZED and self.merge_groups != "auto":
            raise UsageError(
                "--for says what an int8 graph is for: give --precision int8, or drop --for"
            )
        if (precision or "fp32") == "fp32" and self.merge_groups is None:
            return None
        natural = "trt" if precision == "fp8" else _NATURAL[target]
        if target != "onnx" and self.runtime not in (None, natural):
            raise UsageError(
                f"--for {self.runtime} and --format {target} are for two runtimes; drop --for"
            )
        calibration = Calibration(
            self.calibration, self.calibration_images or IMAGES, self.calibration_method or "minmax"
        )
        return Recipe(
            precision=precision,
            native_io=self.io == "native",
            runtime=self.runtime or natural,
            calibration=calibration,
            merge=self.merge_groups,
            batch=batch,
        )

    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are spelt."""
        spelt = {"runtime": "for"}
        return tuple(
            f"--{spelt.get(name, name).replace('_', '-')}"
            for name in NAMES
            if getattr(self, name) is not None
        )


def recipe_options(function: F) -> F:
    """Add what `RecipeRequest` holds."""
    for option in (
        click.option(
            "--merge-groups",
            type=MergeType(),
            metavar="auto|N",
            help=(
                "Merge convolution groups until each has N input channels: exact, and faster where"
                " a runtime is slow on narrow ones; auto times each stage's choices here and keeps"
                " the fastest."
            ),
        ),
        click.option(
            "--calibration-method",
            type=NameType("method", get_args(Method)),
            metavar="|".join(get_args(Method)),
            help=(
                "How outliers are judged: kept, cut where the histogram loses least, or the rarest"
                " 0.01 % cut.  [default: minmax]"
            ),
        ),
        click.option(
            "--calibration-images",
            type=click.IntRange(1, 100_000),
            metavar="N",
            help=f"[default: {IMAGES}]",
        ),
        click.option(
            "--calibration",
            metavar="digits|fashion-mnist|FOLDER|random",
            help=(
                "Images that int8 and fp8 take their ranges from; random is noise.  "
                "[default: what shipped weights were trained on]"
            ),
        ),
        click.option(
            "--for",
            "runtime",
            type=NameType("runtime", get_args(Runtime)),
            metavar="|".join(get_args(Runtime)),
            help=(
                "Whose form of int8 an ONNX file gets, and what --merge-groups auto times. "
                " [default: ort]"
            ),
        ),
        click.option(
            "--io",
            type=NameType("kind of input and output", ("float32", "native")),
            metavar="float32|native",
            help="Element type of fp16's and bf16's input and output.  [default: float32]",
        ),
    ):
        function = option(function)
    return function


def recipe_request(options: dict[str, Any]) -> RecipeRequest:
    """Take the request that `recipe_options` filled out of ``options``."""
    return RecipeRequest(**cast("dict[str, Any]", {name: options.pop(name) for name in NAMES}))
