"""The end of every export: stage a folder, build into it, describe it, prove it, seal it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.artifact.files import Artifact, seal, staging
from resnext.artifact.kinds import KINDS
from resnext.artifact.manifest import CheckRecord, Manifest, WeightsRecord
from resnext.artifact.trust import remember_built
from resnext.machine.environment import versions_of
from resnext.network.config import variant_name
from resnext.progress import working
from resnext.readers.files import file_sha256
from resnext.version import __version__
from resnext.weights.spec import Weights

from .request import ExportRequest


@dataclass(frozen=True)
class Built:
    """What a build left in the staging folder.

    Attributes:
        file: name of the file.
        facts: fields of the manifest that the build decides; the others are its source's, or the
            file's.
        versions: versions of the toolkit and the libraries that made the file.
        prove: runs the file on disk and compares it with PyTorch; it raises GateFailed if they
            differ, and returns None if this machine cannot run the file.
    """

    file: str
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    prove: Callable[[Artifact], CheckRecord | None]


def publish(
    source: Weights | Artifact,
    directory: Path,
    build: Callable[[Path], Built],
    *,
    request: ExportRequest | None,
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """Make an artifact in ``directory``, whole or not at all.

    Args:
        source: what it is made from; its facts are the manifest's unless the build says otherwise.
        directory: folder to make.
        build: writes the file into a folder.
        request: stored in the manifest, so that the artifact can be made again; None if no request
            can.
        check: compare the written file with PyTorch, or with the ONNX file from elsewhere that it
            was made from; if not, the manifest has no check.
        force: replace an artifact that is already there.

    Raises:
        UsageError: ``directory`` is taken.
        MissingRequirement: the disk is full, or the folder cannot be written to.
        GateFailed: the written file does not compute what PyTorch computes. Nothing is written.
        ResnextError: whatever ``build`` raises.
    """
    facts = {**_facts_of(source), "request": request and request.record()}
    with staging(directory, force=force) as folder:
        began = time.monotonic()
        built = build(folder)
        path = folder / built.file
        manifest = Manifest(
            **{
                **facts,
                **built.facts,
                "file": built.file,
                "file_sha256": file_sha256(path),
                "file_size_bytes": path.stat().st_size,
                "versions": built.versions,
                "created": (
                    datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                ),
                "build_s": round(time.monotonic() - began, 3),
                "check": None,
            }
        )
        if check:
            with working("comparing the written file with what it was made from"):
                record = built.prove(Artifact(folder, manifest))
            manifest = manifest.model_copy(update={"check": record})
        seal(folder, manifest)
    if KINDS[manifest.kind].code:
        remember_built(manifest.file_sha256)
    return Artifact(directory, manifest)


def library_versions(*others: str) -> dict[str, str]:
    """Versions of the toolkit, of the libraries that make an ONNX artifact, and of ``others``, by
    distribution. A library that is imported says its own: another one's files, or a folder on the
    path, may lie over an installed package.

    Args:
        others: modules of `resnext.machine.environment.PACKAGES`.
    """
    modules = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", *others)
    # OpenVINO adds the number of a build to the version that its metadata have, after a dash.
    versions = {name: text.partition("-")[0] for name, text in versions_of(modules).items()}
    return {"resnext-toolkit": __version__, **versions}


def _facts_of(source: Weights | Artifact) -> dict[str, Any]:
    if isinstance(source, Artifact):
        return dict(source.manifest) | {"parent_sha256": source.manifest.file_sha256}
    return {
        "model": variant_name(source.config),
        "config": source.config,
        "weights": WeightsRecord.model_validate(source.provenance),
        "preprocessing": source.preprocessing,
        "preprocessing_source": source.preprocessing_source,
        "class_names": source.class_names,
    }
