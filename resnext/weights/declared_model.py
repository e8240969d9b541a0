"""What a trainer wrote about the network beside its tensors: features that no tensor shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from resnext.errors import BadWeights
from resnext.network.config import VARIANTS, ResNeXtConfig

from .fit import described
from .trainer_args import trainer_options

#: Names of timm's networks whose pooling is anti-aliased, which no tensor shows.
_ANTIALIASED = re.compile(r"\w*resne[xt]t?(aa|blur)\w*")
#: What timm calls the average over all places.
_AVERAGE = ("avg", "fast", "fastavg")
#: timm's arguments that change no logits in eval mode, or that names and shapes of tensors show.
_HARMLESS = frozenset(
    ("num_classes", "in_chans", "pretrained", "zero_init_last", "layers", "channels")
) | {
    *("drop_rate", "drop_path_rate", "drop_block_rate", "cardinality", "base_width"),
    *("stem_width", "stem_type", "avg_down", "down_kernel_size", "block_reduce_first"),
    "replace_stem_pool",
}
#: Values of others that are this toolkit's network.
_SAME: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"global_pool": _AVERAGE, "act_layer": ("relu",), "output_stride": (32,)}
)
#: Names of this family's networks in torchvision and timm.
_FAMILY = re.compile(r"(wide_)?resne(t|xt)\d+(_\d+x\d+d|_2)?")
#: What published names have before and after the architecture's.
_AROUND = re.compile(r"(hf[-_]hub:)?(timm/)?((tv|ssl|swsl|ig|gluon)_)?(?P<name>\w+?)(\.\w+)?")


def refuse_declared(content: Any, path: Path) -> None:
    """Refuse a checkpoint by what a trainer wrote about a feature that no tensor shows.

    Raises:
        BadWeights: the network has another pooling or other layers; says what the file says.
    """
    for key, name in _architectures(content):
        refuse_architecture(name, key, str(path))
    options = trainer_options(content)
    refuse_pooling(options.get("gp"), "gp", str(path))
    refuse_arguments(options.get("model_kwargs"), "model_kwargs", str(path))


def refuse_architecture(name: Any, key: str, source: str) -> None:
    """Refuse an architecture with anti-aliased pooling.

    Raises:
        BadWeights: it has.
    """
    match = _AROUND.fullmatch(name) if isinstance(name, str) else None
    if match and _ANTIALIASED.fullmatch(match["name"]):
        raise _refused(source, "anti-aliasing filters", f"{key} {name[:80]!r}")


def refuse_pooling(pooling: Any, key: str, source: str) -> None:
    """Refuse a pooling before the classifier that is not the average.

    Raises:
        BadWeights: it is another.
    """
    if isinstance(pooling, str) and pooling not in _AVERAGE:
        raise _refused(source, "another pooling than the average", f"{key} {pooling[:80]!r}")


def refuse_arguments(arguments: Any, key: str, source: str) -> None:
    """Refuse arguments of timm's models that may change the logits.

    Raises:
        BadWeights: names the first.
    """
    if not isinstance(arguments, Mapping):
        return
    for name, value in arguments.items():
        if value is None or name in _HARMLESS or value in _SAME.get(name, ()):
            continue
        said = f"{key} {str(name)[:40]}={str(value)[:40]!r}"
        raise _refused(source, "an option that may change its logits", said)


def architecture_notes(content: Any, config: ResNeXtConfig) -> tuple[str, ...]:
    """A note for each name in the file that is no architecture of this family."""
    notes = (architecture_note(name, config) for _, name in _architectures(content))
    return tuple(dict.fromkeys(note for note in notes if note))


def architecture_note(name: str, config: ResNeXtConfig) -> str:
    """A note if ``name`` is no architecture of this family, else ""."""
    match = _AROUND.fullmatch(name)
    if match and (match["name"] in VARIANTS or _FAMILY.fullmatch(match["name"])):
        return ""
    return (
        f"the file calls its network {name[:80]!r}, and the tensors are of {described(config)}:"
        " check that it has no other layers"
    )


def _architectures(content: Any) -> Iterator[tuple[str, str]]:
    """Each key that names an architecture, and the name."""
    if isinstance(content, Mapping):
        said = {"arch": content.get("arch"), "model": trainer_options(content).get("model")}
        yield from ((key, name) for key, name in said.items() if isinstance(name, str))


def _refused(source: str, feature: str, said: str) -> BadWeights:
    return BadWeights(
        f"{source} is of a network that this toolkit cannot run: it has {feature} ({said})",
        hint="export it with the library that it comes from",
    )
