"""Reads an AOTInductor package (.pt2) as an archive, without loading or running its code."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.records import PackageRecord
from resnext.errors import BadArtifact
from resnext.readers.archives import read_entries, take
from resnext.readers.files import MOST_MODEL, open_file
from resnext.readers.libraries import check_library
from resnext.readers.strict_json import parse_json

#: The record's name among the package's extra files.
RECORD_NAME = "resnext.json"
_RECORD, _CODE, _METADATA = f"extra/{RECORD_NAME}", "data/aotinductor/model/", "_metadata.json"


@dataclass(frozen=True)
class Package:
    """The readable part of a package.

    Attributes:
        record: the package's record.
        metadata: AOTInductor's metadata, with the exporter's additions.
    """

    record: PackageRecord
    metadata: dict[str, str]


def read_package(path: Path, title: Path | None = None) -> Package:
    """Check the whole archive at ``path``, and read its record and metadata.

    Args:
        path: the package.
        title: what to call it in messages, if not ``path``.

    Raises:
        BadArtifact: it is not a package of this toolkit, or damaged.
    """
    with open_file(path, MOST_MODEL, BadArtifact, least=0) as file:
        return _read(file, title or path)


def _read(file: BinaryIO, path: Path) -> Package:
    try:
        # All entries are in one folder, named after the file that was first written.
        stored = read_entries(file)
        entries = {name.partition("/")[2]: entry for name, entry in stored.items()}
        if len({name.partition("/")[0] for name in stored}) != 1:
            raise ValueError("its entries are in several folders")
    except ValueError as exc:
        raise BadArtifact(
            f"{path} is no readable .pt2 package: {exc}", hint="export it again"
        ) from exc
    metadata = [name for name in entries if name.startswith(_CODE) and name.endswith(_METADATA)]
    if _RECORD not in entries or not metadata:
        raise BadArtifact(f"{path} is no package of this toolkit: it has no record")
    try:
        text = take(file, entries[_RECORD])
        parse_json(text)
        record = PackageRecord.model_validate_json(text, strict=True)
        facts = parse_json(take(file, entries[metadata[0]]))
        package = Package(record, {str(key): str(value) for key, value in facts.items()})
    except (ValueError, AttributeError) as exc:  # ValueError: pydantic's, too
        raise BadArtifact(
            f"{path} has a record that this version cannot read", hint="export it again"
        ) from exc
    libraries = [name for name in entries if name.startswith(_CODE) and name.endswith(".so")]
    if len(libraries) != 1:
        raise BadArtifact(
            f"{path} is no readable .pt2 package: it has {len(libraries)} libraries instead of one",
            hint="export it again",
        )
    if record.platform.startswith("linux"):
        try:
            check_library(take(file, entries[libraries[0]]))
        except ValueError as exc:
            raise BadArtifact(
                f"{path} is no readable .pt2 package: its library {exc}", hint="export it again"
            ) from exc
    return package


def check_package_bytes(artifact: Artifact) -> None:
    """Check, without loading its code, that a package is whole and fits its manifest; skip other
    artifacts.

    Raises:
        BadArtifact: it is another package, or no package at all.
    """
    if artifact.manifest.package is not None:
        check_manifest(artifact, _read(io.BytesIO(artifact.read()), artifact.path))


def check_manifest(artifact: Artifact, package: Package) -> None:
    """Compare the manifest with the file; only the file's bytes are under a digest.

    Raises:
        BadArtifact: they differ; names the fields.
    """
    manifest, record = artifact.manifest, package.record
    different = different_facts(manifest, package.metadata.get, config=True)
    different += [
        field
        for field in ("precision", "batch")
        if getattr(record, field) != getattr(manifest, field)
    ]
    different += different_tensors(manifest, record.inputs, record.outputs)
    different += [] if manifest.package == record else ["package"]
    refuse_different(artifact, different)
