"""The network's tensors in what a checkpoint holds, by torchvision's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.errors import BadInput, BadWeights


def chosen_state(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in a checkpoint, and one line for each thing that a user should know.

    Raises:
        BadInput: there is none.
        BadWeights: two tensors have the same name without their prefixes.
    """
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise BadInput(f"{path} holds no state dict (a mapping of parameter names to tensors)")
    return _unwrapped(content, path), ()


def _unwrapped(state: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without the prefixes of DataParallel ("module.") and torch.compile ("_orig_mod.").

    Raises:
        BadWeights: two tensors have the same name then.
    """
    unwrapped: dict[str, Tensor] = {}
    for name, value in state.items():
        bare = str(name).removeprefix("module.").removeprefix("_orig_mod.")
        if bare in unwrapped:
            raise BadWeights(
                f"{path} holds {bare} twice, with and without a prefix",
                hint="save the state_dict() of one module",
            )
        unwrapped[bare] = value
    return unwrapped
