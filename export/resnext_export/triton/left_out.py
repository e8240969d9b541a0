"""Models of a repository that a server of ours cannot load, which says nothing against them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from resnext.readers.files import exists

from .config import CONFIG_NAME
from .served import Served

#: Backends of Triton's, and older names of platforms, that have no stand-in. Of any other name the
#: server says that there is no such backend.
_OTHERS = frozenset(
    {"dali", "fil", "identity", "pytorch", "pytorch_libtorch", "tensorflow"}
    | {"tensorflow_graphdef", "tensorflow_savedmodel", "tensorrtllm", "vllm"}
)


def left_out(
    root: Path, models: Mapping[str, Served], own: Collection[str], stood_in: Collection[str]
) -> dict[str, str]:
    """Why each model is left out that is.

    Args:
        root: the repository.
        models: those whose configuration can be read.
        own: names of the server's own backends.
        stood_in: names of those that we have a stand-in for.
    """
    found = {
        folder.name: "it has no configuration"
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name[0] != "." and not exists(folder / CONFIG_NAME)
    }
    for name, model in models.items():
        if model.backend in own or model.backend == "ensemble":
            continue
        if model.backend in _OTHERS and model.backend not in stood_in:
            found[name] = f"this server has no backend {model.backend}"
        elif not model.backend:
            found[name] = "its configuration names no backend"
        elif model.backend in stood_in and _too_much(model):
            found[name] = (
                f"our stand-in for {model.backend} takes one input and one output, which the"
                " configuration says, without reshape"
            )
    while True:
        parts = {
            name: f"its step {step.model_name} was not loaded"
            for name, model in models.items()
            for step in model.config.ensemble_scheduling.step
            if name not in found and step.model_name in found
        }
        if not parts:
            return found
        found |= parts


def _too_much(model: Served) -> bool:
    config = model.config
    tensors = (*config.input, *config.output)
    return (
        (len(config.input), len(config.output)) != (1, 1)
        or bool(config.cc_model_filenames)
        or any(map(bool, model.unlisted.values()))
        or any(tensor.HasField("reshape") for tensor in tensors)
    )
