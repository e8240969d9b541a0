"""Checkpoints in and out, checked against the configuration.

A weights SPEC is one of::

    seeded, seeded:7      conditioned random weights (see resnext.weights.conditioned);
                          the default for ImageNet-size models
    digits                trained on scikit-learn's digits, shipped; implies its model
    fashion-mnist         trained on Fashion-MNIST, shipped; implies its model
    PATH.safetensors      this toolkit's, torchvision's or timm's parameter names
    PATH.pth, PATH.pt     the same, read with weights_only=True: a pickle that would
                          run code is refused
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from resnext.errors import BadInput, BadWeights, UsageError
from resnext.images.preprocessing import Preprocessing, default_preprocessing
from resnext.network.config import ResNeXtConfig, variant, variant_name

from .shipped import SHIPPED

if TYPE_CHECKING:
    from resnext.network.model import ResNeXt

#: Key of the JSON header that `save_weights` writes into a .safetensors file.
METADATA_KEY = "resnext"
_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Weights:
    """A state dict that fits its configuration, and where it came from.

    Attributes:
        config: the network that the tensors fit.
        state_dict: float32 tensors (and integer batch counters) by parameter name, on the CPU.
        source: the SPEC that gave them; a path is absolute.
        preprocessing: what an image must go through before this network.
        class_names: one name for each logit, or empty where none are known.
    """

    config: ResNeXtConfig
    state_dict: Mapping[str, Tensor]
    source: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Digest of names, dtypes, shapes and bytes; the container's format does not matter."""
        return state_dict_sha256(self.state_dict)


def load_weights(
    spec: str | None = None,
    model: str | ResNeXtConfig | None = None,
    *,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
) -> Weights:
    """Find, read and check the weights that ``spec`` names.

    Args:
        spec: a weights SPEC as the module describes it; None means the shipped weights of a shipped
            model, else ``seeded``.
        model: a variant's name or a configuration; None means what the checkpoint implies, else
            resnext50_32x4d.
        num_classes: logits, where not the model's own.
        input_size: (height, width) in pixels, where not the model's own.

    Raises:
        UsageError: ``spec`` is not of any known form, or names shipped weights of another model
            than ``model``.
        BadWeights: the file is missing, unsafe, declares another model, or does not fit; names the
            first tensors that do not.
    """
    named = variant(model) if isinstance(model, str) else model
    if spec is None:
        spec = next((name for name, known in SHIPPED.items() if known.config == named), "seeded")
    implied = _implied_config(spec)
    if implied is not None and named is not None:
        # A configuration may say another input size than the checkpoint was trained at; a name says
        # what it says.
        wanted = named if isinstance(model, str) else replace(named, input_size=implied.input_size)
        if wanted != implied:
            _refuse_other_model(spec, implied)
    config = named or implied or variant("resnext50_32x4d")
    config = replace(
        config,
        num_classes=num_classes or config.num_classes,
        input_size=input_size or config.input_size,
    )
    if spec in SHIPPED:
        return replace(_load_file(SHIPPED[spec].path, config), source=spec)
    if spec == "seeded" or spec.startswith("seeded:"):
        from .conditioned import seeded_state_dict

        state = seeded_state_dict(config, _seed(spec))
        return Weights(config, state, spec, default_preprocessing(config))
    return _load_file(Path(spec), config)


def _implied_config(spec: str) -> ResNeXtConfig | None:
    """The configuration that ``spec`` says by itself; None where it says none."""
    if spec in SHIPPED:
        return SHIPPED[spec].config
    if spec == "seeded" or spec.startswith("seeded:"):
        return None
    path = Path(spec)
    if path.suffix not in _SUFFIXES:
        raise UsageError(
            f"weights {spec!r} are not of a known form; give seeded[:N], {', '.join(SHIPPED)}, "
            f"or a path that ends in {', '.join(_SUFFIXES)}"
        )
    if not path.is_file():
        raise BadWeights(f"no weights file at {path}")
    return _declared_config(_read_header(path), path) if path.suffix == ".safetensors" else None


def _refuse_other_model(spec: str, implied: ResNeXtConfig) -> NoReturn:
    name = variant_name(implied) or "a configuration of their own"
    message = (
        f"weights {spec!r} are of model {name}; leave --model and --num-classes out, or choose"
        " other weights"
    )
    raise UsageError(message) if spec in SHIPPED else BadWeights(message)


def load_model(weights: Weights) -> ResNeXt:
    """A float32 ResNeXt on the CPU, in eval mode, that owns a copy of ``weights``."""
    from resnext.network.model import ResNeXt

    with torch.device("meta"):
        model = ResNeXt(weights.config)
    model.load_state_dict(
        {name: value.clone() for name, value in weights.state_dict.items()}, assign=True
    )
    return model.eval().requires_grad_(False)


def save_weights(weights: Weights, path: Path) -> None:
    """Write ``weights`` as .safetensors, with model, preprocessing and class names in its
    header.
    """
    from safetensors.torch import save_file

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
    """Digest of a state dict's names, dtypes, shapes and bytes, in the order of the names."""
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
        wanted = ResNeXt(config).state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = []
    if missing := [name for name in wanted if name not in state and name not in counters]:
        problems.append(_listed("missing", missing))
    if unexpected := [name for name in state if name not in wanted]:
        problems.append(_listed("unexpected", unexpected))
    misshapen = [
        f"{name} (got {tuple(state[name].shape)}, want {tuple(wanted[name].shape)})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if misshapen:
        problems.append(_listed("misshapen", misshapen))
    if problems:
        name = variant_name(config) or "this configuration"
        raise BadWeights(
            f"{source} does not fit {name}: {'; '.join(problems)}. Is --model (or --num-classes)"
            " right?"
        )
    odd = [
        name
        for name in wanted
        if name in state and name not in counters and not _is_plain(state[name])
    ]
    if odd:
        raise BadWeights(
            f"{source} holds tensors that are not dense floating-point: {_listed('tensors', odd)}"
        )
    checked = {}
    for name, like in wanted.items():
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


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided


def _listed(what: str, names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what} {', '.join(names[:shown])}{rest}"


def _seed(spec: str) -> int:
    _, _, number = spec.partition(":")
    if spec != "seeded" and not (number.isascii() and number.isdigit()):
        raise UsageError(
            f"weights {spec!r}: the seed after 'seeded:' must be a whole number of 0 or more"
        )
    return int(number or 0)


def _load_file(path: Path, config: ResNeXtConfig) -> Weights:
    if path.suffix == ".safetensors":
        header, state = _read_header(path), _read_safetensors(path)
    else:
        header, state = {}, _read_pickle(path)
    checked = check_state_dict(state, config, str(path))
    names = header.get("class_names", [])
    if not isinstance(names, list) or (names and len(names) != config.num_classes):
        raise BadWeights(
            f"{path} does not name its classes by a list of {config.num_classes}, one for each"
            " logit"
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
    # Another input size was asked for: the resize keeps its proportion to the crop.
    resize = round(declared.resize * min(config.input_size) / min(declared.crop))
    return declared.model_copy(
        update={"crop": config.input_size, "resize": max(resize, min(config.input_size))}
    )


def _declared_config(header: Mapping[str, Any], path: Path) -> ResNeXtConfig | None:
    from pydantic import TypeAdapter

    if "config" not in header:
        return None
    try:
        return TypeAdapter(ResNeXtConfig).validate_python(header["config"])
    except (ValueError, UsageError) as exc:
        raise BadWeights(
            f"{path} declares a configuration that is not valid: {' '.join(str(exc).split())}"
        ) from exc


def _read_header(path: Path) -> dict[str, Any]:
    """What `save_weights` wrote about the tensors; empty for files of others."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as exc:
        raise BadWeights(f"{path} is not a readable .safetensors file: {exc}") from exc
    return header if isinstance(header, dict) else {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError, ValueError) as exc:
        raise BadWeights(f"{path} is not a readable .safetensors file: {exc}") from exc
    return _unwrapped(state)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with (
            warnings.catch_warnings()
        ):  # of a pickle protocol that it does not expect, before it refuses the file
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise BadWeights(
            f"{path} holds more than tensors and was refused unread, because a pickle can run code"
            " when it is loaded; save its state_dict() alone, best as .safetensors"
        ) from exc
    except Exception as exc:  # a damaged pickle raises whatever its bytes happen to mean
        first = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise BadWeights(f"{path} is not a readable PyTorch checkpoint: {first}") from exc
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(v, Tensor) for v in loaded.values())
    ):
        raise BadInput(f"{path} holds no state dict (a mapping of parameter names to tensors)")
    return _unwrapped(loaded)


def _unwrapped(state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel ("module.") and torch.compile ("_orig_mod.") put before
    them.
    """
    return {
        str(name).removeprefix("module.").removeprefix("_orig_mod."): value
        for name, value in state.items()
    }
