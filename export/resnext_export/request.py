"""What was asked of ``resnext-export``, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnext.cli.options import chosen_weights
from resnext.precision import Precision
from resnext.runtimes.pytorch.release import refuse_older_torch

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_export.cli.recipe_options import RecipeRequest

    from .recipe import Recipe


@dataclass(frozen=True)
class Asked:
    """Options that every format has; None is what was not given."""

    target: str
    model: str | None
    spec: str | None
    num_classes: int | None
    input_size: str | None
    precision: Precision | None
    batch: str | None
    bake_preprocessing: bool
    output: Path | None
    check: bool
    force: bool
    recipe: RecipeRequest
    device: Literal["cpu", "cuda"] | None = None

    def wanted_recipe(self, batch: int = 8) -> Recipe | None:
        """What to make of the float32 ONNX artifact, or None where that is it.

        Args:
            batch: at which merged groups are timed.

        Raises:
            UsageError: options that do not go together.
        """
        return self.recipe.recipe(self.precision, self.target, batch)

    def weights(self) -> Weights:
        """The weights that were named.

        Raises:
            MissingRequirement: PyTorch is too old to export them; asked before they are made.
        """
        refuse_older_torch()
        return chosen_weights(self.model, self.spec, self.num_classes, self.input_size)

    def directory(self, weights: Weights, precision: str, target: str) -> Path:
        """The folder that was named, or one that says what is in it."""
        from resnext.network.config import variant_name
        from resnext.weights.shipped import SHIPPED

        if self.output is not None:
            return self.output
        if target == "onnx" and precision == "int8" and self.recipe.runtime not in (None, "ort"):
            precision += f"-for-{self.recipe.runtime}"
        if self.recipe.merge_groups is not None:
            precision += "-merged"
        config, source = weights.config, weights.source
        if source in SHIPPED and SHIPPED[source].config == config:
            return Path(f"{source}-{precision}-{target}")
        name = (
            variant_name(config)
            or f"custom_{config.input_size[0]}x{config.input_size[1]}_{config.num_classes}"
        )
        stem = Path(source).stem if Path(source).is_absolute() else source.replace(":", "")
        return Path(f"{name}-{stem}-{precision}-{target}")
