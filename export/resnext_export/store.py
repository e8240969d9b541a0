"""Build an artifact once, reuse it ever after: how benchmarks and later steps reach exporting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, read_manifest
from resnext.artifact.trust import Trust
from resnext.errors import BadArtifact, BadInput, MissingRequirement
from resnext.readers.files import file_sha256
from resnext.storage import cache_folder, locked, read_cached, remove, write_cached
from resnext.verify.subject import Network
from resnext.weights.spec import Weights

from .formats.base import builder_for
from .publish import publish
from .registry import FORMATS
from .request import PREPROCESSING, ExportRequest

#: Fields whose meaning the key holds: the source and the images by content, the others resolved.
_NAMES = {
    "weights",
    "weights_key",
    "model",
    "num_classes",
    "input_size",
    *PREPROCESSING,
    "conformance_kit",
    "onnx",
    "calibration",
    "precision",
    "runtime",
    "opset",
    "runs_on",
}


@dataclass(frozen=True)
class Stored:
    """An artifact from the store.

    Attributes:
        artifact: the artifact.
        reused: True if it was already there.
    """

    artifact: Artifact
    reused: bool


def build_or_reuse(
    request: ExportRequest,
    weights: Network,
    source: Artifact | None = None,
    folder: Path | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Stored:
    """The checked artifact that ``request`` describes, built now unless an earlier run left it.

    Args:
        request: what to build.
        weights: the network.
        source: the artifact to build from; None means what the request is made from, which comes
            from the store, too.
        folder: of the store; None means `cache_folder`.
        say: called with one line for what a user should know before the work is done.

    Raises:
        MissingRequirement: the cache folder cannot be written to, or a library, compiler or GPU is
            missing.
        GateFailed: the artifact does not compute what PyTorch computes.
        ResnextError: whatever the build raises.
    """
    *before, last = request.steps() if source is None else (request,)
    made_from: Weights | Artifact = source or weights
    for step in before:
        made_from = build_step(step, weights, made_from, folder, say=say).artifact
    return build_step(last, weights, made_from, folder, say=say)


def build_step(
    request: ExportRequest,
    weights: Network,
    source: Weights | Artifact,
    folder: Path | None = None,
    *,
    check: bool = True,
    say: Callable[[str], None],
) -> Stored:
    """One of a request's steps, from the artifact of the step before.

    Safe for several processes: the first builds, the others wait and reuse. A damaged entry is
    built again.

    Args:
        request: one of `ExportRequest.steps`.
        weights: the network.
        source: what it is made from.
        folder: as for `build_or_reuse`.
        check: compare with PyTorch; if not, ``folder`` must be for this run alone.
        say: as for `build_or_reuse`.

    Raises:
        ResnextError: as for `build_or_reuse`.
    """
    folder = folder or cache_folder()
    builder = builder_for(request)
    entry = entry_of(request, builder.key(request, weights), source, folder)
    made_from = source.manifest.file_sha256 if isinstance(source, Artifact) else source.sha256
    with locked(entry.with_suffix(".lock")):
        if (stored := _read_entry(entry)) is not None:
            manifest = stored.manifest
            same = made_from == (manifest.parent_sha256 or manifest.weights.sha256)
            if same and builder.usable(manifest):
                return Stored(stored, reused=True)
        else:
            remove(entry)  # absent, or damaged since; the store owns its entries
        build = partial(builder.build, source, weights, request, check=check, say=say, cache=folder)
        force = entry.exists()
        artifact = publish(source, entry, build, request=request, check=check, force=force)
        _write_digest(entry, artifact)
        return Stored(artifact, reused=False)


def stored_manifests(folder: Path | None = None) -> Iterator[Manifest]:
    """The manifest of every artifact in the store that nobody has altered since; the artifacts'
    files are not read.

    Args:
        folder: of the store; None means `cache_folder`.
    """
    root = folder or cache_folder()
    for kind in FORMATS:
        for digest in sorted((root / kind).glob("*.sha256")):
            entry = digest.with_suffix("")
            try:
                if read_cached(digest) == _manifest_digest(entry):
                    yield read_manifest(entry / MANIFEST_NAME)
            except (BadArtifact, BadInput):
                continue


def _read_entry(entry: Path) -> Artifact | None:
    """The artifact of the store; None if there is none, or a byte of it or of its manifest has
    changed.
    """
    if entry.is_symlink() or not entry.is_dir():
        return None
    try:
        if read_cached(_digest_file(entry)) != _manifest_digest(entry):
            return None  # not even read: it is as good as a stranger's
        # The user's own folder: what is in it was built here, and is not signed.
        return read_artifact(entry, trust=Trust())
    except BadArtifact:
        return None


def _write_digest(entry: Path, artifact: Artifact) -> None:
    """Keep the manifest's digest beside the entry; the manifest has that of the artifact's file.

    Raises:
        MissingRequirement: it cannot be written.
    """
    path = _digest_file(entry)
    try:
        write_cached(path, _manifest_digest(artifact.directory))
    except OSError as exc:
        raise MissingRequirement(
            f"cannot write {path}: {exc.strerror or exc}",
            hint="free some space, or set RESNEXT_CACHE_DIR to another folder",
        ) from exc


def _digest_file(entry: Path) -> Path:
    return entry.with_suffix(".sha256")


def _manifest_digest(directory: Path) -> bytes:
    return file_sha256(directory / MANIFEST_NAME).encode()


def entry_of(
    request: ExportRequest, key: Mapping[str, Any], source: Weights | Artifact, folder: Path
) -> Path:
    """The folder of an artifact: its name changes with everything that changes the bytes.

    Args:
        request: what is built.
        key: further facts that change the bytes (`Builder.key`).
        source: what it is made from.
        folder: of the store.
    """
    laid_out = request.numerics.calibrated or request.merge_groups == "auto"
    facts: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "request": {k: v for k, v in request.record().items() if k not in _NAMES},
        "precision": request.numerics.name,
        "scheme": request.scheme if laid_out else None,
        "key": key,
    }
    if isinstance(source, Artifact):
        return folder / request.format / _digest(facts | {"source": source.manifest.file_sha256})
    facts |= {
        "config": asdict(source.config),
        "weights": source.sha256,
        "preprocessing": source.preprocessing.model_dump(mode="json"),
        "preprocessing_source": source.preprocessing_source,
        "classes": source.class_names,
    }
    return folder / request.format / _digest(facts)


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
