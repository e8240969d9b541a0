"""Reads an AOTInductor package (.pt2) as an archive, without loading or running its code."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from resnext.artifact.files import Artifact
from resnext.artifact.identity import different_facts, different_tensors, refuse_different
from resnext.artifact.records import PackageRecord
from resnext.errors import BadArtifact

#: The record's name among the package's extra files.
RECORD_NAME = "resnext.json"
_EXTRA, _CODE = "extra/", "data/aotinductor/model/"


@dataclass(frozen=True)
class Package:
    """The readable part of a package.

    Attributes:
        record: the package's record.
        metadata: AOTInductor's metadata, with the exporter's additions.
    """

    record: PackageRecord
    metadata: dict[str, str]


def read_package(path: Path) -> Package:
    """Read record and metadata of the package at ``path``.

    Raises:
        BadArtifact: it is not a package of this toolkit, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # All entries are in one folder, named after the file that was first written.
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            record = PackageRecord.model_validate_json(archive.read(names[_EXTRA + RECORD_NAME]))
            entry = next(
                name for name in names if name.startswith(_CODE) and name.endswith("_metadata.json")
            )
            metadata = {
                str(key): str(value)
                for key, value in json.loads(archive.read(names[entry])).items()
            }
    except (OSError, zipfile.BadZipFile) as exc:
        raise BadArtifact(
            f"{path} is no readable .pt2 package: {exc}", hint="export it again"
        ) from exc
    except (KeyError, StopIteration) as exc:
        raise BadArtifact(f"{path} is no package of this toolkit: it has no record") from exc
    except (ValidationError, ValueError, AttributeError) as exc:
        raise BadArtifact(
            f"{path} has a record that this version cannot read", hint="export it again"
        ) from exc
    return Package(record, metadata)


def check_package_bytes(artifact: Artifact) -> None:
    """Check, without loading its code, that a package fits its manifest; skip other artifacts.

    Raises:
        BadArtifact: it is another package, or no package at all.
    """
    if artifact.manifest.package is not None:
        check_manifest(artifact, read_package(artifact.path))


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
