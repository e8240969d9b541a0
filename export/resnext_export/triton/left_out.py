"""Models of a repository that are not loaded here, which says nothing against them: a server of
ours cannot, or they bring code that nobody asked to run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from resnext.readers.files import exists, read_file

from .config import CONFIG_NAME
from .preprocess import preprocess_model
from .served import Served

#: Backends of Triton's, and older names of platforms, that have no stand-in. Of any other name the
#: server says that there is no such backend.
_OTHERS = frozenset(
    {"dali", "fil", "identity", "pytorch", "pytorch_libtorch", "tensorflow"}
    | {"tensorflow_graphdef", "tensorflow_savedmodel", "tensorrtllm", "vllm"}
)

#: Python models, libraries of backends, and environments for them.
_CODE = frozenset({".py", ".pyc", ".so", ".gz", ".zip", ".pkl"})
#: Largest file that is read to see whether it is ours, bytes.
_MOST = 64 << 20


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
    return with_ensembles(found, models)


def with_code(root: Path) -> dict[str, str]:
    """Models that bring code which this toolkit did not write, and which file that is.

    Args:
        root: the repository.
    """
    ours = preprocess_model().encode()
    found: dict[str, str] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.rglob("*")):
            if path.suffix in _CODE and (path.suffix != ".py" or read_file(path, _MOST) != ours):
                found[folder.name] = (
                    f"{path.relative_to(folder)} is code, which a server would run; `server`"
                    " required loads it"
                )
                break
    return found


def with_ensembles(found: Mapping[str, str], models: Mapping[str, Served]) -> dict[str, str]:
    """What is left out, and the ensembles that have a part in it."""
    found = dict(found)
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
