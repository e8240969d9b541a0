"""The network's tensors in what a checkpoint holds, under torchvision's names.

A checkpoint may hold several networks: raw and averaged (EMA) weights, a student and a teacher.
None of them is preferred in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from resnext.errors import BadInput, BadWeights, UnknownName

from .features import refuse_features
from .fit import listed

#: What PyTorch puts into the names of a module that it wraps: DataParallel, DDP and AveragedModel;
#: torch.compile; FSDP; activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: A tensor that every network of this kind has. Before its name comes the prefix of all others.
_ANCHOR = "layer1.0.conv1.weight"
#: First part of the names beside the network that change no logits: losses, metrics, the counter
#: of averages.
_BESIDE = re.compile(
    r"criterion|loss(_fn|_func)?|n_averaged"
    r"|((train|val|valid|test)_?)?(metrics?|acc(uracy)?|auroc|f1|confmat|(acc_?)?top_?\d)_?\d*"
)
#: Keys of averaged weights: timm's train.py, torchvision's reference script, in timm's order.
_AVERAGED = ("state_dict_ema", "model_ema")
#: Deepest mapping that is looked into; Lightning's callbacks have their weights 3 deep.
_MOST_DEPTH = 4
#: Most networks in one dictionary.
_MOST_NETWORKS = 64


@dataclass(frozen=True)
class Network:
    """The tensors of one network.

    Attributes:
        tensors: by torchvision's names.
        notes: one line for each thing that was done to the names.
        key: the chosen one, or None if there was nothing to choose.
        beside: other tensors in the same state dict, which may change what it computes.
    """

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    key: str | None = None
    beside: tuple[str, ...] = ()


def chosen_network(content: Any, path: Path, key: str | None = None) -> Network:
    """The network in a checkpoint.

    Args:
        content: what the file holds.
        path: its name, for messages.
        key: of the state dict in a file of several, its parts separated by dots; below it, the
            prefix of a network in a state dict of several.

    Raises:
        BadInput: there is no state dict.
        BadWeights: there are several, and no key; two tensors have the same name without their
            prefixes; its names show a feature that this toolkit lacks; or there are tensors beside
            the network that may change its logits.
        UnknownName: no state dict has that key.
    """
    networks: dict[str, Network] = {}
    for place, tensors in _state_dicts(content):
        for prefix, network in _networks(tensors, path).items():
            networks[".".join(filter(None, (place, prefix)))] = network
    if not networks:
        raise BadInput(f"{path} holds no state dict (a mapping of parameter names to tensors)")
    if key is not None and list(networks) == [""]:
        # The key of weights that were saved again, as one state dict, need not be forgotten.
        note = f"{path.name} holds one state dict, so `weights_key` {key[:80]} chooses nothing"
        networks = {"": replace(networks[""], notes=(*networks[""].notes, note))}
    elif key is not None:
        if key not in networks:
            raise UnknownName("`weights_key`", key, networks)
        networks = {key: replace(networks[key], key=key)}
    if len(networks) > 1:
        averaged = next((name for name in _AVERAGED if name in networks), None)
        also = f"; timm takes the averaged one, {averaged}" if averaged else ""
        raise BadWeights(
            f"{path} holds {listed(f'{len(networks)} state dicts:', list(networks), 8)}",
            hint=f"set `weights_key` to one of them{also}",
        )
    (network,) = networks.values()
    refuse_features((*network.tensors, *network.beside), path)
    if network.beside:
        raise BadWeights(
            f"{path} holds {listed('more than one network: also', network.beside)}",
            hint="if this changes no logits, save the state_dict() of the network alone",
        )
    return network


def _state_dicts(content: Any) -> Iterator[tuple[str, Mapping[Any, Tensor]]]:
    """Each mapping of names to tensors, with the keys that lead to it. None is seen twice."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(_MOST_DEPTH):
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if not isinstance(value, Mapping) or id(value) in seen:
                continue
            seen.add(id(value))
            if value and all(isinstance(each, Tensor) for each in value.values()):
                if not place or any(_is_weight(name, each) for name, each in value.items()):
                    yield place, value
            else:
                below += [
                    (f"{place}.{name}" if place else str(name), each)
                    for name, each in value.items()
                ]
        level = below


def _is_weight(name: object, tensor: Tensor) -> bool:
    """Whether it is a layer's, which the state of an optimizer or a loss is not."""
    return str(name).endswith("weight") and tensor.dim() > 1


def _networks(tensors: Mapping[Any, Tensor], path: Path) -> dict[str, Network]:
    """Each network in a state dict, by the prefix of its names; by "" if there is only one."""
    names = _unwrapped(tensors, path)
    prefixes = [name.removesuffix(_ANCHOR) for name in names if _is_anchor(name)]
    prefixes = prefixes or [_common_prefix(list(names))]
    if len(prefixes) > _MOST_NETWORKS:
        raise BadWeights(f"{path} holds {len(prefixes)} networks in one state dict")
    own: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    beside = []
    for name, original in names.items():
        owner = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
        if owner is None or (not owner and _is_beside(name)):
            beside.append(name)
        else:
            own[owner][name.removeprefix(owner)] = original
    several = len(prefixes) > 1
    return {
        prefix.rstrip(".") if several else "": Network(
            {name: tensors[original] for name, original in found.items()},
            _notes(found, beside),
            beside=tuple(name for name in beside if not _is_beside(name)),
        )
        for prefix, found in own.items()
    }


def _notes(names: Mapping[str, Any], beside: list[str]) -> tuple[str, ...]:
    notes = []
    if removed := sorted(
        {_removed(str(original), name) for name, original in names.items()} - {""}
    ):
        notes.append(f"{listed('took the prefix', removed)} off the names of the tensors")
    if beside:
        notes.append(f"left out {listed('what is beside the network:', beside)}")
    return tuple(notes)


def _is_anchor(name: str) -> bool:
    return name == _ANCHOR or name.endswith(f".{_ANCHOR}")


def _unwrapped(tensors: Mapping[Any, Tensor], path: Path) -> dict[str, Any]:
    """Names without wrappers, each with its name in the file."""
    names: dict[str, Any] = {}
    for name in tensors:
        bare = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
        if bare in names:
            raise BadWeights(
                f"{path} holds {bare} twice, with and without a prefix",
                hint="save the state_dict() of one module",
            )
        names[bare] = name
    return names


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, up to a dot; nothing if a network of one layer would have it."""
    prefix = ""
    while True:
        first = {name[len(prefix) :].partition(".")[0] for name in names}
        if len(first) != 1 or any("." not in name[len(prefix) :] for name in names):
            return prefix
        (part,) = first
        if re.fullmatch(r"conv1|bn1|fc|layer\d+|\d+", part):
            return prefix
        prefix += f"{part}."


def _is_beside(name: str) -> bool:
    return _BESIDE.fullmatch(name.partition(".")[0]) is not None


def _removed(name: str, bare: str) -> str:
    """What of a name was taken off."""
    if name.endswith(bare):
        return name[: len(name) - len(bare)]
    return "".join(f"{part}." for part in name.split(".") if part in WRAPPERS)
