"""Options of ``resnext-export`` that only engines have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from resnext.cli.params import NameType

if TYPE_CHECKING:
    from resnext.artifact.records import EngineOptions

F = TypeVar("F", bound=Callable[..., Any])

COMPATIBILITIES = ("none", "ampere+", "same-cc", "version")
TILING_LEVELS = ("none", "fast", "moderate", "full")
FALLBACKS = ("merge-groups", "fp32-islands")


@dataclass(frozen=True)
class EngineRequest:
    """What was asked for on the command line; None and False are what was not."""

    onnx: Path | None
    tf32: bool
    workspace: int | None
    optimization_level: int | None
    tiling_level: str | None
    timing_cache: Path | None
    compatibility: str
    strip_weights: bool
    targets: str | None
    on_refusal: tuple[str, ...] | None

    def refuse_without_engine(self, *, from_onnx: bool) -> None:
        """Raise click.UsageError where an option was given that only an engine has.

        Args:
            from_onnx: the format is made from an ONNX artifact as an engine is, so ``--onnx`` may
                be given.
        """
        neutral = {"compatibility": "none", "tf32": False, "strip_weights": False}
        neutral |= {"onnx": self.onnx} if from_onnx else {}
        given = [
            field.name
            for field in fields(self)
            if getattr(self, field.name) != neutral.get(field.name)
        ]
        if given:
            name = {"targets": "target"}.get(given[0], given[0]).replace("_", "-")
            if name == "onnx":
                raise click.UsageError(
                    "--onnx is what to start from: it takes another --format, a --precision or"
                    " --merge-groups"
                )
            raise click.UsageError(f"--{name} is for engines: --format trt or trt-rtx")

    def options(self, batch: str | None) -> EngineOptions:
        """Options of the builder.

        Args:
            batch: optimization profiles, separated by commas; None means one from 1 over 8 to 64.

        Raises:
            UsageError: a profile without an upper limit, or not in order.
        """
        from resnext.artifact.manifest import BatchRange
        from resnext.artifact.records import EngineOptions
        from resnext.errors import UsageError

        profiles = tuple(BatchRange.parse(part.strip()) for part in (batch or "1:8:64").split(","))
        if open_ended := [profile for profile in profiles if profile.max is None]:
            first = open_ended[0]
            raise UsageError(
                f"an engine needs an upper limit: --batch {first.min}:{first.opt}:MAX, for example "
                f"{first.min}:{first.opt}:{first.opt * 8}"
            )
        options: dict[str, Any] = {
            "profiles": profiles,
            "tf32": self.tf32,
            "workspace_mib": self.workspace,
            "optimization_level": self.optimization_level,
            "tiling_level": self.tiling_level,
            "compatibility": self.compatibility,
            "strip_weights": self.strip_weights,
            "targets": tuple(
                dict.fromkeys(
                    part.strip() for part in (self.targets or "").split(",") if part.strip()
                )
            ),
        }
        if self.on_refusal is not None:
            options["fallbacks"] = () if self.on_refusal == ("fail",) else self.on_refusal
        return EngineOptions(**options)


class FallbacksType(NameType):
    """Fallbacks in order, or ``fail`` alone."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the names."""
        names = super().convert(value, param, ctx)
        if "fail" in names and len(names) > 1:
            self.fail("'fail' allows no fallback, so none can stand beside it", param, ctx)
        return names


def engine_options(function: F) -> F:
    """Add what `EngineRequest` holds."""
    for option in (
        click.option(
            "--on-refusal",
            type=FallbacksType("fallback", ("fail", *FALLBACKS), many=True),
            metavar="fail|merge-groups|fp32-islands[,...]",
            help=(
                "What to do, in order, where the library has no half-precision kernel for a grouped"
                " convolution.  [default: merge-groups,fp32-islands]"
            ),
        ),
        click.option(
            "--target",
            "targets",
            metavar="sm_89[,sm_120]",
            help=(
                "GPUs to build for, by compute capability; TensorRT-RTX.  [default: all from"
                " Ampere on]"
            ),
        ),
        click.option(
            "--strip-weights",
            is_flag=True,
            help="Leave the weights out of the engine; resnext-export refit puts them in.",
        ),
        click.option(
            "--compatibility",
            type=NameType("compatibility level", COMPATIBILITIES),
            default="none",
            metavar="|".join(COMPATIBILITIES),
            help=(
                "Other machines that the engine must load on: GPUs from Ampere on, of the same"
                " compute capability, or later versions of TensorRT.  [default: none]"
            ),
        ),
        click.option(
            "--timing-cache",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="PATH",
            help="File with kernel times to reuse and add to; TensorRT.",
        ),
        click.option(
            "--tiling-level",
            type=NameType("tiling level", TILING_LEVELS),
            metavar="|".join(TILING_LEVELS),
            help="How long to look for kernels that keep tiles in the L2 cache; TensorRT.",
        ),
        click.option(
            "--optimization-level",
            type=click.IntRange(0, 5),
            help="How long to look for kernels; TensorRT.",
        ),
        click.option(
            "--workspace",
            type=click.IntRange(1, 1 << 20),
            metavar="MIB",
            help="Most scratch memory of a layer, MiB.",
        ),
        click.option(
            "--tf32",
            is_flag=True,
            help="Let float32 engines round to TF32, which is faster and less exact.",
        ),
        click.option(
            "--onnx",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="ONNX artifact to start from.  [default: exported once into the cache]",
        ),
    ):
        function = option(function)
    return function


def asked_for(engine: dict[str, object]) -> EngineRequest:
    """The request that `engine_options` filled."""
    return EngineRequest(**cast("dict[str, Any]", engine))
