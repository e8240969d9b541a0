"""The file of an AOTInductor package (.pt2), read as the archive that it is: none of its code is
loaded or run.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from resnext.artifact.files import Artifact
from resnext.artifact.records import PackageRecord
from resnext.errors import BadArtifact
from resnext.images.preprocessing import Preprocessing
from resnext.network.config import ResNeXtConfig

#: The record's name among the package's extra files.
RECORD_NAME = "resnext.json"
_EXTRA, _CODE = "extra/", "data/aotinductor/model/"


@dataclass(frozen=True)
class Package:
    """What can be read of a package without loading its code.

    Attributes:
        record: the package's own.
        metadata: AOTInductor's, with what the exporter added.
    """

    record: PackageRecord
    metadata: dict[str, str]


def read_package(path: Path) -> Package:
    """Read record and metadata of the package at ``path``; none of its code is loaded or run.

    Raises:
        BadArtifact: it is no package of this toolkit, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Every name lies under one folder, called after the file that was first written.
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            record = PackageRecord.model_validate_json(archive.read(names[_EXTRA + RECORD_NAME]))
            noted = next(
                name for name in names if name.startswith(_CODE) and name.endswith("_metadata.json")
            )
            metadata = {
                str(key): str(value)
                for key, value in json.loads(archive.read(names[noted])).items()
            }
    except (OSError, zipfile.BadZipFile) as exc:
        raise BadArtifact(f"{path} is no readable .pt2 package: {exc}; export it again") from exc
    except (KeyError, StopIteration) as exc:
        raise BadArtifact(
            f"{path} is no package that resnext-export wrote: it says nothing of itself"
        ) from exc
    except (ValidationError, ValueError, AttributeError) as exc:
        raise BadArtifact(
            f"{path} has a record that this version cannot read; export it again"
        ) from exc
    return Package(record, metadata)


def package_facts(
    *,
    config: ResNeXtConfig,
    weights_sha256: str,
    preprocessing: Preprocessing,
    preprocessing_baked: bool,
    class_names: tuple[str, ...],
) -> dict[str, str]:
    """Metadata that a package bears beside its record: what its manifest says and compiled code
    cannot.
    """
    return {
        "resnext.config": json.dumps(asdict(config), sort_keys=True),
        "resnext.weights_sha256": weights_sha256,
        "resnext.preprocessing": preprocessing.model_dump_json(),
        "resnext.preprocessing_baked": json.dumps(preprocessing_baked),
        "resnext.class_names": json.dumps(list(class_names)),
    }


def check_package_bytes(artifact: Artifact) -> None:
    """Check, without loading its code, that a package is the one that its manifest tells of; others
    pass.

    Raises:
        BadArtifact: it is not, or it is no package at all.
    """
    if artifact.manifest.package is not None:
        check_manifest(artifact, read_package(artifact.path))


def check_manifest(artifact: Artifact, package: Package) -> None:
    """The manifest must say what the file says; only the file's bytes are under a digest.

    Raises:
        BadArtifact: names what differs.
    """
    manifest, record = artifact.manifest, package.record
    declared = package_facts(
        config=manifest.config,
        weights_sha256=manifest.weights.sha256,
        preprocessing=manifest.preprocessing,
        preprocessing_baked=manifest.preprocessing_baked,
        class_names=manifest.class_names,
    )
    differ = [
        key.partition(".")[2]
        for key, value in declared.items()
        if package.metadata.get(key) != value
    ]
    for field in ("precision", "batch", "inputs", "outputs"):
        differ += [] if getattr(record, field) == getattr(manifest, field) else [field]
    differ += [] if manifest.package == record else ["package"]
    if differ:
        raise BadArtifact(
            f"the manifest of {artifact.path} does not agree with the file on {', '.join(differ)}; "
            "one of them was altered: export the artifact again"
        )
