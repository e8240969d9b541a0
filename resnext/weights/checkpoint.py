"""Checkpoint files: read, checked against the configuration, and saved."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from resnext.errors import BadInput, BadWeights, UsageError, first_line
from resnext.images.preprocessing import (
    Preprocessing,
    PreprocessingSource,
    default_preprocessing,
)
from resnext.network.config import ResNeXtConfig, variant_name
from resnext.readers.archives import read_entries
from resnext.readers.files import MOST_MODEL, open_file, read_all
from resnext.readers.strict_json import parse_json
from resnext.readers.tensors import read_tensor_header

#: Key of the JSON header that `save_weights` writes into a .safetensors file.
METADATA_KEY = "resnext"


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


def check_state_dict(
    state: Mapping[str, Tensor], config: ResNeXtConfig, source: str
) -> dict[str, Tensor]:
    """Return ``state`` as float32 if it fits ``config`` exactly.

    Batch counters (``num_batches_tracked``) may be absent, as in old checkpoints.

    Raises:
        BadWeights: names the first missing, unexpected, misshapen or non-finite tensors.
    """
    from resnext.network.model import ResNeXt

    with torch.device("meta"):
        expected = ResNeXt(config).state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    if odd := [name for name, value in state.items() if not _is_dense(value)]:
        raise _not_dense(source, odd)
    problems = []
    if missing := [name for name in expected if name not in state and name not in counters]:
        problems.append(_listed("missing", missing))
    if unexpected := [name for name in state if name not in expected]:
        problems.append(_listed("unexpected", unexpected))
    misshapen = [
        f"{name} (got {tuple(state[name].shape)}, want {tuple(expected[name].shape)})"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if misshapen:
        problems.append(_listed("misshapen", misshapen))
    if problems:
        name = variant_name(config) or "this configuration"
        raise BadWeights(
            f"{source} does not fit {name}: {'; '.join(problems)}. Is `model` (or `num_classes`)"
            " right?"
        )
    if odd := [
        name
        for name in expected
        if name in state and name not in counters and not state[name].is_floating_point()
    ]:
        raise _not_dense(source, odd)
    checked = {}
    for name, like in expected.items():
        if name in counters:
            checked[name] = torch.as_tensor(state.get(name, 0), dtype=torch.int64).reshape(())
        else:
            checked[name] = state[name].detach().to(like.dtype).contiguous()
    if bad := [name for name, value in checked.items() if not torch.isfinite(value).all()]:
        raise BadWeights(f"{source} holds NaN or infinite values: {_listed('tensors', bad)}")
    if bad := [
        name
        for name, value in checked.items()
        if name.endswith("running_var") and bool((value < 0).any())
    ]:
        raise BadWeights(f"{source} holds negative variances: {_listed('tensors', bad)}")
    return checked


def _is_dense(tensor: Tensor) -> bool:
    """Whether the values are in memory, one for each place of the shape."""
    odd = tensor.is_meta or tensor.is_nested or tensor.is_quantized
    return not odd and tensor.layout == torch.strided


def _not_dense(source: str, names: list[str]) -> BadWeights:
    return BadWeights(
        f"{source} holds tensors that are not dense floating-point: {_listed('tensors', names)}"
    )


def _listed(what: str, names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what} {', '.join(name[:80] for name in names[:shown])}{rest}"


def read_weights(path: Path, config: ResNeXtConfig) -> Weights:
    """Read a checkpoint file and check that it fits ``config``.

    Raises:
        BadWeights: it is not readable or not safe to read, or does not fit; names the first tensors
            that do not.
        BadInput: it holds no state dict.
    """
    if path.suffix == ".safetensors":
        header, state = _read_safetensors(path)
    else:
        header, state = {}, _read_pickle(path)
    checked = check_state_dict(state, config, str(path))
    names = header.get("class_names", [])
    if not isinstance(names, list) or (names and len(names) != config.num_classes):
        raise BadWeights(
            f"the class names in {path} are not a list of {config.num_classes}, one for each logit"
        )
    preprocessing = _declared_preprocessing(header, config, path)
    return Weights(config, checked, str(path.resolve()), preprocessing, tuple(map(str, names)))


def _declared_preprocessing(
    header: Mapping[str, Any], config: ResNeXtConfig, path: Path
) -> Preprocessing:
    if "preprocessing" not in header:
        return default_preprocessing(config)
    try:
        declared = Preprocessing.model_validate(header["preprocessing"])
    except ValueError as exc:
        raise BadWeights(
            f"{path} declares a preprocessing that is not valid: {' '.join(str(exc).split())}"
        ) from exc
    if len(declared.mean) != config.in_channels:
        raise BadWeights(
            f"{path} declares a preprocessing of {declared.color} for {config.in_channels} input"
            " channels"
        )
    if declared.crop == config.input_size:
        return declared
    # Another input size was requested: keep the proportion of resize to crop.
    resize = round(declared.resize * min(config.input_size) / min(declared.crop))
    return declared.model_copy(
        update={"crop": config.input_size, "resize": max(resize, min(config.input_size))}
    )


def declared_config(path: Path) -> ResNeXtConfig | None:
    """The configuration in the header of a .safetensors file; None if it has none, as other files.

    Raises:
        BadWeights: the file is not readable, or its configuration is not valid.
    """
    if path.suffix != ".safetensors":
        return None
    header = _read_header(path)
    if "config" not in header:
        return None
    try:
        return TypeAdapter(ResNeXtConfig).validate_python(header["config"])
    except (ValueError, UsageError) as exc:
        raise BadWeights(
            f"{path} declares a configuration that is not valid: {' '.join(str(exc).split())}"
        ) from exc


def _read_header(path: Path) -> dict[str, Any]:
    """The header that `save_weights` wrote; empty for files from elsewhere."""
    with _checked_safetensors(path) as (_, header):
        return header


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header that `save_weights` wrote, and the tensors."""
    with _checked_safetensors(path) as (file, header):
        file.seek(0)
        state = load(read_all(file, path, BadWeights))
    return header, _unwrapped(state, path)


@contextmanager
def _checked_safetensors(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Any]]]:
    """The open file and the header that `save_weights` wrote, after a check of both headers."""
    with open_file(path, MOST_MODEL, BadWeights) as file:
        try:
            metadata = read_tensor_header(file, os.fstat(file.fileno()).st_size)
            header = parse_json(metadata.get(METADATA_KEY, "{}"))
            yield file, header if isinstance(header, dict) else {}
        except (SafetensorError, OSError, ValueError) as exc:
            if isinstance(exc, BadWeights):
                raise
            raise BadWeights(f"{path} is not a readable .safetensors file: {exc}") from exc


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # About an unexpected pickle protocol, before it refuses, and about nested tensors.
        with open_file(path, MOST_MODEL, BadWeights) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if file.read(4) == b"PK\3\4":  # files from before PyTorch 1.6 are bare pickles
                read_entries(file)
            file.seek(0)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except BadWeights:
        raise
    except pickle.UnpicklingError as exc:
        raise BadWeights(
            f"{path} contains more than tensors and was refused unread, because a pickle can run"
            " code when it is loaded",
            hint="save only its state_dict(), preferably as .safetensors",
        ) from exc
    except Exception as exc:  # a damaged pickle can raise anything
        raise BadWeights(f"{path} is not a readable PyTorch checkpoint: {first_line(exc)}") from exc
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(v, Tensor) for v in loaded.values())
    ):
        raise BadInput(f"{path} holds no state dict (a mapping of parameter names to tensors)")
    return _unwrapped(loaded, path)


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
