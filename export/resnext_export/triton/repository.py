"""A model repository of a checked artifact: each model's folder appears whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from resnext.artifact.files import (
    COMPANIONS,
    Artifact,
    Replaceable,
    check_destination,
    read_artifact,
    staging,
)
from resnext.artifact.manifest import MANIFEST_NAME
from resnext.errors import BadArtifact, UsageError
from resnext.machine.threads import thread_budget
from resnext.progress import working
from resnext.readers.files import exists, read_file
from resnext.runtimes.openvino.ir import GRAPH_NAME, WEIGHTS_NAME, unpack_ovir
from resnext.weights.shipped import SHIPPED

from .config import (
    CONFIG_NAME,
    HEADER,
    LABELS_NAME,
    VERSION,
    WARMUP_NAME,
    network_config,
    write_config,
)
from .kserve import SERVICE_NAME, service_yaml
from .options import RepositoryOptions
from .preprocess import (
    CLASSIFY,
    PREPROCESS,
    check_prepared,
    write_ensemble,
    write_labels,
    write_preprocess,
)
from .served import version_numbers
from .warmup import write_warmup

#: Our session refuses this; Triton's backend has no option against it.
_LOWERED = (
    "OpenVINO may compute float32 in bfloat16 on processors with AMX or AVX-512 BF16, and Triton's"
    " backend does not prevent it: compare the server's logits there"
)
_UNNAMED = (
    "no class names: Triton classifies all images of a request as one if it does not batch; export"
    " a range in `batch` for them"
)
#: Largest file of an artifact that describes it, bytes.
_MOST_COMPANION = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_OURS = frozenset({CONFIG_NAME, LABELS_NAME, WARMUP_NAME, SERVICE_NAME, str(VERSION)})


@dataclass(frozen=True)
class Repository:
    """What was written.

    Attributes:
        root: folder of the repository.
        models: names of the models, the network first.
        artifact: the copy in the network's version folder.
        max_batch: as in the configuration; 0 if the server does not batch.
    """

    root: Path
    models: tuple[str, ...]
    artifact: Artifact
    max_batch: int


def write_repository(
    artifact: Artifact,
    root: Path,
    options: RepositoryOptions | None = None,
    *,
    service: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Repository:
    """Write the models of an artifact into a repository, beside those that are there.

    Args:
        artifact: what to serve; its manifest says how it was checked.
        root: folder of the repository, made if need be.
        options: name, threads, batches, preprocessing.
        service: write an InferenceService into the network's folder, too.
        force: replace models of these names, if this toolkit wrote them.
        say: called with one line for what a user should know.

    Raises:
        UsageError: the artifact was not checked, Triton cannot run it, or a model of the name is
            there.
        BadArtifact: the artifact's file was altered.
        MissingRequirement: the disk is full, or ``root`` cannot be written to.
    """
    options = options or RepositoryOptions()
    manifest = artifact.manifest
    check_servable(artifact)
    name = model_name(artifact, options.name)
    config = network_config(artifact, name, options)
    if options.with_preprocessing:
        check_prepared(manifest)
    cpus = options.cpus or thread_budget().count
    names = (name, *((name + PREPROCESS, name + CLASSIFY) if options.with_preprocessing else ()))
    if manifest.kind == "openvino" and manifest.precision == "fp32":
        say(_LOWERED)
    check_root(root)
    made = not exists(root)
    try:
        check_names(root, names, force=force)
        with ExitStack() as stack, working("writing the model repository"):
            # Published in the opposite order: an ensemble never comes before its steps.
            network, *others = reversed(
                [
                    stack.enter_context(staging(root / each, force=force, kind=_MODEL))
                    for each in reversed(names)
                ]
            )
            copy = _copy_artifact(artifact, network / str(VERSION))
            if "label_filename" in config["output"][0]:
                write_labels(network, manifest)
            elif manifest.class_names:
                say(_UNNAMED)
            config["model_warmup"], missing = write_warmup(copy, config, network)
            if missing:
                say(missing)
            write_config(network, config)
            if service:
                on_gpu = config["instance_group"][0]["kind"] == "KIND_GPU"
                text = service_yaml(name, cpus=cpus, gpu=on_gpu, storage_uri=options.storage_uri)
                (network / SERVICE_NAME).write_text(text, encoding="utf-8")
            if others:
                write_preprocess(others[0], manifest, config, cpus)
                write_ensemble(others[1], manifest, config)
    except BaseException:
        if made:
            with suppress(OSError):
                root.rmdir()
        raise
    copy = read_artifact(root / name / str(VERSION))
    return Repository(root, names, copy, config["max_batch_size"])


def check_servable(artifact: Artifact) -> None:
    """Check that an artifact was proven, and has a manifest that can travel with it.

    Raises:
        UsageError: it was not, or is a bare file.
    """
    if artifact.bare:
        raise UsageError(
            f"{artifact.path} has no manifest, so nothing says whether it was checked",
            hint="export it first: name it in `onnx` there",
        )
    if artifact.manifest.check is None:
        raise UsageError(
            f"{artifact.directory} was never checked, and an unchecked artifact is not served",
            hint="export it again with `check` on a machine that can run it",
        )


def check_root(root: Path) -> None:
    """Check that models may be added to a folder: it is new, empty, or a repository.

    Raises:
        UsageError: it is something else.
        MissingRequirement: it cannot be made.
    """
    if not exists(root) or not root.is_dir():
        check_destination(root, force=None)
        return
    if exists(root / MANIFEST_NAME) or exists(root / CONFIG_NAME):
        kind = "an artifact" if exists(root / MANIFEST_NAME) else "a model of a repository"
        raise UsageError(
            f"{root} is {kind}, and a repository is the folder around models",
            hint="choose another `output`",
        )
    for path in sorted(root.iterdir()):
        is_model = not path.is_dir() or exists(path / CONFIG_NAME) or version_numbers(path)
        if not is_model and not path.name.startswith("."):
            raise UsageError(
                f"{root} is no model repository: {path.name} in it has no {CONFIG_NAME}, and no"
                " version folder",
                hint="choose another `output`",
            )


def check_names(root: Path, names: Sequence[str], *, force: bool) -> None:
    """Check that models of these names may be written.

    Raises:
        UsageError: a folder should not have the name, or one is there and ``force`` is off, or this
            toolkit did not write it.
        MissingRequirement: the folder cannot be written to.
    """
    for folder in (root / check_name(name) for name in names):
        check_destination(folder, force=True, kind=_MODEL)
        if not force and exists(folder) and any(folder.iterdir()):
            raise UsageError(
                f"there is a model {folder.name} in {root} already",
                hint="set `force` to replace it, or choose another `name`",
            )


def model_name(artifact: Artifact, requested: str | None = None) -> str:
    """The name of the network's model: the requested one, or one that says what it is.

    Raises:
        UsageError: no folder should have the requested one.
    """
    manifest = artifact.manifest
    if requested is None:
        source = manifest.weights.source
        stem = Path(source).stem if "/" in source and Path(source).is_absolute() else source
        words = [stem if source in SHIPPED else f"{manifest.model or ''}-{stem}"]
        requested = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join([*words, manifest.precision]))
        requested = requested.strip("-.")[:80]
    return check_name(requested)


def check_name(name: str) -> str:
    """``name``, if a model's folder may have it.

    Raises:
        UsageError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"`name` {name[:40]!r} must be letters, digits, _ . and -, beginning with a letter or"
            " digit"
        )
    return name


def _copy_artifact(artifact: Artifact, folder: Path) -> Artifact:
    """The sealed artifact, byte for byte, with what lies beside it; read back and verified."""
    folder.mkdir()
    artifact.write_to(folder)
    for name in sorted({MANIFEST_NAME, *COMPANIONS}):
        if exists(artifact.directory / name):
            data = read_file(artifact.directory / name, _MOST_COMPANION, BadArtifact)
            (folder / name).write_bytes(data)
    copy = read_artifact(folder)
    if copy.manifest != artifact.manifest:
        raise BadArtifact(f"{artifact.directory} changed while it was copied")
    if copy.manifest.kind == "openvino":
        graph, weights = unpack_ovir(copy.read_writable(), str(copy.path))
        (folder / GRAPH_NAME).write_bytes(graph)
        (folder / WEIGHTS_NAME).write_bytes(weights.data)
    return copy


def _is_ours(folder: Path, names: list[str]) -> bool:
    """Whether this toolkit wrote a model, and nobody put anything else beside it."""
    if CONFIG_NAME not in names or not set(names) <= _OURS:
        return False
    return read_file(folder / CONFIG_NAME, _MOST_COMPANION).startswith(HEADER.encode())


_MODEL = Replaceable("a model that this toolkit wrote", _is_ours)
