"""Checkpoint files: read, checked against the configuration, and saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from resnext.errors import BadWeights
from resnext.images.preprocessing import (
    Preprocessing,
    PreprocessingSource,
    default_preprocessing,
)
from resnext.network.config import ResNeXtConfig, variant, variant_name

from .config_from_shapes import config_from_shapes
from .containers import METADATA_KEY as METADATA_KEY
from .containers import read_container
from .declared_model import architecture_notes, refuse_declared
from .fit import check_state_dict, described, refuse_odd_tensors
from .header import (
    declared_class_names,
    declared_config,
    declared_preprocessing,
    fitted_preprocessing,
)
from .state_dicts import chosen_network
from .trainer_args import TrainerArgs, preprocessing_from_args


@dataclass(frozen=True)
class Weights:
    """A state dict that fits its configuration, and where it came from.

    Attributes:
        config: the network that the tensors fit.
        state_dict: float32 tensors (and integer batch counters) by parameter name, on the CPU.
        source: the SPEC that they were loaded from; a path is absolute.
        preprocessing: what an image must go through before this network.
        class_names: one name for each logit, or empty if none are known.
        preprocessing_source: who says so: the checkpoint, the publisher's table, the user, or
            nobody (``assumed``).
        file_sha256: digest of the checkpoint file's bytes; None for generated weights.
        revision: commit of the model repository that the file came from, or None.
        key: the state dict in a file of several, or None.
        notes: one line each for what a user should know about how the file was read.
    """

    config: ResNeXtConfig
    state_dict: Mapping[str, Tensor]
    source: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    preprocessing_source: PreprocessingSource = "declared"
    file_sha256: str | None = None
    revision: str | None = None
    key: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of names, dtypes, shapes and bytes, whatever the file format."""
        return state_dict_sha256(self.state_dict)

    @property
    def provenance(self) -> dict[str, str | None]:
        """The fields of a manifest's record of the weights."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "file_sha256": self.file_sha256,
            "revision": self.revision,
            "key": self.key,
        }


def save_weights(weights: Weights, path: Path) -> None:
    """Write .safetensors, with configuration, preprocessing and class names in the header."""
    header = {
        "config": asdict(weights.config),
        "preprocessing": weights.preprocessing.model_dump(mode="json"),
        "class_names": list(weights.class_names),
    }
    save_file(
        dict(weights.state_dict),
        path,
        {"format": "pt", METADATA_KEY: json.dumps(header, sort_keys=True)},
    )


def state_dict_sha256(state: Mapping[str, Tensor]) -> str:
    """Digest of a state dict's names, dtypes, shapes and bytes, ordered by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_weights(
    path: Path,
    model: str | ResNeXtConfig | None = None,
    *,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    key: str | None = None,
) -> Weights:
    """Read a checkpoint file and check that it fits its network.

    Args:
        path: safetensors or from `torch.save`, whatever its name ends in; or the index of a sharded
            checkpoint, with the shards beside it. It may be a link.
        model: name of a variant, or a configuration; None means the one that the file declares,
            else the one that its tensors have.
        num_classes: number of logits, if it differs from the model's.
        input_size: (height, width) in pixels, if it differs from the model's.
        key: of the state dict in a file of several: ``state_dict_ema``.

    Returns:
        The weights; ``preprocessing_source`` is ``assumed`` if the file declares none.

    Raises:
        UnknownName: no such variant, or no state dict with that key.
        BadWeights: the file is not readable or not safe to read, holds several state dicts,
            declares another model, or does not fit; names the first tensors that do not.
        BadInput: it holds no state dict.
    """
    container = read_container(path)
    refuse_declared(container.content, path)
    network = chosen_network(container.content, path, key)
    state, notes, header = network.tensors, network.notes, container.header
    refuse_odd_tensors(state, container.size_bytes, str(path))
    requested = _requested(model, declared_config(header, path), path)
    config = requested or _inferred(state, path)
    if requested is None and num_classes not in (None, config.num_classes):
        raise BadWeights(
            f"{path} has {config.num_classes} classes, not {num_classes}", hint="drop `num_classes`"
        )
    declared, said = declared_preprocessing(header, path), TrainerArgs()
    if declared is None:
        said = preprocessing_from_args(container.content, config.in_channels)
        declared = said.preprocessing
    if requested is None:
        stored = declared.crop if declared else said.input_size
        size = input_size or stored or config.input_size
        config = replace(config, input_size=size)
        known = (input_size or stored) is not None
        assumed = "" if known else ", which is assumed: set `input_size` if it is another"
        text = f"the tensors are of {described(config)}; input {size[0]}x{size[1]}{assumed}"
        notes = (*notes, text)
    config = replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=input_size or config.input_size,
    )
    preprocessing = (
        fitted_preprocessing(declared, config, str(path))
        if declared
        else said.scale.applied(default_preprocessing(config))
    )
    return Weights(
        config,
        check_state_dict(state, config, str(path), inferred=requested is None),
        str(path.resolve()),
        preprocessing,
        declared_class_names(header, config, path),
        "declared" if declared else "assumed",
        container.file_sha256,
        key=network.key,
        notes=(
            *notes,
            *architecture_notes(container.content, config),
            *said.notes,
            *_converted(state),
        ),
    )


def _requested(
    model: str | ResNeXtConfig | None, declared: ResNeXtConfig | None, path: Path
) -> ResNeXtConfig | None:
    """The network that the caller names, or the file.

    A configuration may have another input size than the file declares; a name may not.

    Raises:
        BadWeights: they name different ones.
    """
    named = variant(model) if isinstance(model, str) else model
    if named is None or declared is None:
        return named or declared
    expected = named if isinstance(model, str) else replace(named, input_size=declared.input_size)
    if expected != declared:
        name = variant_name(declared) or "a custom configuration"
        raise BadWeights(
            f"the weights in {path} are of model {name}",
            hint="leave `model` and `num_classes` out, or choose other weights",
        )
    return named


def _converted(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note on tensors that are not float32 in the file."""
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {torch.float32})
    return (f"converted tensors of {' and '.join(others)} to float32",) if others else ()


def _inferred(state: Mapping[str, Tensor], path: Path) -> ResNeXtConfig:
    try:
        return config_from_shapes({name: tuple(value.shape) for name, value in state.items()})
    except ValueError as exc:
        raise BadWeights(
            f"the tensors in {path} are of no network of this family: {exc}",
            hint="its names must be torchvision's",
        ) from exc
