"""Weights by their published name: ``torchvision:``, ``timm:`` and ``hf:``.

::

    torchvision:IMAGENET1K_V2                     of the chosen model
    torchvision:resnext101_32x8d/IMAGENET1K_V1    DEFAULT stands for the newest
    timm:resnext50_32x4d.a1h_in1k                 without a tag: timm's default
    hf:OWNER/REPO, hf:OWNER/REPO@REVISION         timm's layout, or this toolkit's files

``timm:`` takes ``@REVISION``, too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from resnext.errors import UnknownName, UsageError
from resnext.images.preprocessing import Preprocessing, PreprocessingSource
from resnext.images.requested import PreprocessingOptions
from resnext.network.config import ResNeXtConfig

from .download import file_from_url
from .huggingface import NoFile, fetch_file, fetch_weights
from .imagenet import imagenet_class_names
from .published import ARCHITECTURES, PUBLISHED, Published
from .spelling import HF, TIMM, TORCHVISION
from .timm_config import TimmConfig, read_timm_config

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
#: A branch, tag or commit; no step up in a path.
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)


@dataclass(frozen=True)
class Named:
    """Published weights, before they are fetched.

    Attributes:
        source: the full SPEC; a model, tag or default is spelled out. A revision is left out, since
            ``fetch`` gives its commit.
        config: the network; None if only its tensors tell.
        input_size: (height, width) in pixels that they are published for, if anybody says.
        preprocessing: what an image must go through, or what of it is declared; None if the file
            has to say it.
        preprocessing_source: who says so.
        class_names: one for each logit, or empty.
        fetch: gets the checkpoint, and the commit if it is of a repository.
        notes: one line each for what a user should know.
        architecture: timm's name of the network, as the publisher declares it, or None.
    """

    source: str
    config: ResNeXtConfig | None
    input_size: tuple[int, int] | None
    preprocessing: Preprocessing | PreprocessingOptions | None
    preprocessing_source: PreprocessingSource
    class_names: tuple[str, ...]
    fetch: Callable[[], tuple[Path, str | None]]
    notes: tuple[str, ...] = ()
    architecture: str | None = None


def named_weights(spec: str, model: str | ResNeXtConfig | None = None) -> Named:
    """What ``spec`` names. Only for ``hf:`` something is fetched: config.json.

    Args:
        spec: one for which `is_named` is true.
        model: the chosen model; ``torchvision:`` without one means its weights.

    Raises:
        UnknownName: torchvision or timm publish no weights of that name for this family.
        UsageError: ``spec`` is malformed, or torchvision has no weights for ``model``.
        MissingRequirement: config.json cannot be fetched.
        BadWeights: config.json is not usable.
    """
    if spec.startswith(TORCHVISION):
        return _of_torchvision(spec, model)
    name, at, revision = spec.partition("@")
    if at and not _REVISION.fullmatch(revision):
        raise UsageError(f"weights {spec!r}: what follows the @ is no branch, tag or commit")
    if spec.startswith(TIMM):
        return _of_timm(name, revision or None)
    return _of_repository(name, revision or None)


def _of_torchvision(spec: str, model: str | ResNeXtConfig | None) -> Named:
    name, slash, tag = spec.removeprefix(TORCHVISION).rpartition("/")
    if not slash:
        if isinstance(model, ResNeXtConfig):
            model = _architecture(model)
        name = model or "resnext50_32x4d"
    specs = [known for known in PUBLISHED if known.startswith(f"{TORCHVISION}{name}/")]
    if not specs:
        models = {PUBLISHED[known].model for known in PUBLISHED if known.startswith(TORCHVISION)}
        raise UnknownName("model of torchvision's weights", name, sorted(models))
    full = specs[-1] if tag == "DEFAULT" else f"{TORCHVISION}{name}/{tag}"
    if full not in PUBLISHED:
        raise UnknownName("weights", full, specs)
    row = PUBLISHED[full]
    return _of_row(row, lambda: (file_from_url(row.source, row.sha256), None))


def _of_timm(name: str, revision: str | None) -> Named:
    architecture, dot, _ = name.partition(".")
    specs = [known for known in PUBLISHED if known.startswith(f"{architecture}.")]
    if not specs:
        models = dict.fromkeys(
            PUBLISHED[known].spec.partition(".")[0] for known in PUBLISHED if known.startswith(TIMM)
        )
        if any(architecture.endswith(known.removeprefix(TIMM)) for known in models):
            raise UsageError(
                f"weights {name!r} are not among those of this family", hint="see `list_weights`"
            )
        near = difflib.get_close_matches(architecture, models, n=1, cutoff=0.51) if dot else []
        tagged = [known for known in PUBLISHED if near and known.startswith(f"{near[0]}.")]
        raise UnknownName("weights", name, tagged or models)
    full = name if dot else specs[0]
    if full not in PUBLISHED:
        raise UnknownName("weights", full, specs)
    row = PUBLISHED[full]
    return _of_row(row, lambda: fetch_weights(row.source, revision))


def _of_repository(spec: str, revision: str | None) -> Named:
    repository = spec.removeprefix(HF)
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"weights {spec!r} are not of the form hf:OWNER/REPO[@REVISION]")
    config, commit, unreachable = TimmConfig(), revision, None
    try:
        path, commit = fetch_file(repository, revision, "config.json")
        config = read_timm_config(path, repository)
    except NoFile as exc:  # this toolkit's own files need none
        unreachable = exc.unreachable
    names = config.class_names
    row = PUBLISHED.get(repository.replace("/", ":", 1))
    if row is not None:
        names = names or imagenet_class_names()
    return Named(
        spec,
        None,
        config.input_size,
        config.preprocessing,
        "declared",
        names,
        lambda: fetch_weights(repository, commit, unreachable),
        () if row is None else _notes(row),
        config.architecture,
    )


def _of_row(row: Published, fetch: Callable[[], tuple[Path, str | None]]) -> Named:
    names = imagenet_class_names()
    return Named(
        row.spec,
        row.config,
        row.config.input_size,
        row.preprocessing,
        "published",
        names,
        fetch,
        _notes(row),
    )


def _notes(row: Published) -> tuple[str, ...]:
    if row.commercial:
        return ()
    return (f"the license of {row.spec}, {row.license}, allows no commercial use",)


def _architecture(config: ResNeXtConfig) -> str:
    """The published name of a network, whatever its input size."""
    for name, known in ARCHITECTURES.items():
        if replace(known, input_size=config.input_size) == config:
            return name
    raise UsageError(
        "torchvision publishes no weights for this configuration", hint="choose other `weights`"
    )
