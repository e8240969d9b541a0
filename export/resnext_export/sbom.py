"""A bill of materials for an artifact: CycloneDX 1.6 with a model card (ML-BOM).

The JSON is made here because cyclonedx-python-lib has no class for model cards; a test validates it
against that library's copy of the schema. It is a function of the artifact and its verdict alone:
no clock, no host name.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from typing import Any

from resnext.artifact.files import VERDICT_NAME, Artifact
from resnext.artifact.manifest import Manifest, manifest_sha256
from resnext.artifact.specs import TensorSpec
from resnext.images.preprocessing import Preprocessing
from resnext.version import __version__

_TOOLKIT = "resnext-toolkit"


def sbom(artifact: Artifact) -> str:
    """The bill of materials of ``artifact``, as JSON text; with the metrics of its verdict, if
    there is one beside it.

    Raises:
        BadArtifact: its verdict is damaged or about other bytes.
        GateFailed: its verdict did not pass.
    """
    manifest = artifact.manifest
    digest = manifest_sha256(artifact.directory, manifest)
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
        }
        for name, version in manifest.versions.items()
    ]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {
                "components": [{"type": "application", "name": _TOOLKIT, "version": __version__}]
            },
            "component": _model(artifact),
        },
        "components": libraries,
        "dependencies": [
            {"ref": manifest.file_sha256, "dependsOn": [each["bom-ref"] for each in libraries]}
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _model(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    ancestors = [
        {
            "type": "machine-learning-model",
            "name": manifest.weights.source,
            "description": "the weights; the hash is of their tensors, not of a file",
            "hashes": _hashes(manifest.weights.sha256),
        }
    ]
    if manifest.parent_sha256 is not None:
        ancestors.append(
            {
                "type": "machine-learning-model",
                "name": "parent artifact",
                "description": "the file that this one was made from",
                "hashes": _hashes(manifest.parent_sha256),
            }
        )
    return {
        "type": "machine-learning-model",
        "bom-ref": manifest.file_sha256,
        "name": manifest.model or ("not known" if manifest.foreign else "custom ResNeXt"),
        "version": manifest.file_sha256[:12],
        "description": f"{manifest.file}: {manifest.kind}, {manifest.precision}",
        "hashes": _hashes(manifest.file_sha256),
        "pedigree": {"ancestors": ancestors},
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image classification",
                "architectureFamily": "not known"
                if manifest.foreign
                else "residual neural network with grouped convolutions",
                "modelArchitecture": manifest.model or _architecture(manifest),
                "datasets": _datasets(manifest),
                "inputs": [{"format": _format(spec)} for spec in manifest.inputs],
                "outputs": [{"format": _format(spec)} for spec in manifest.outputs],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(artifact)},
        },
        "properties": [
            {"name": f"{_TOOLKIT}:{name}", "value": value}
            for name, value in (
                ("batch", manifest.batches()),
                ("file_size_bytes", str(manifest.file_size_bytes)),
                ("preprocessing", _json(manifest.preprocessing)),
                ("preprocessing_source", manifest.preprocessing_source or "not recorded"),
                ("request", json.dumps(manifest.request)),
            )
        ],
    }


def _architecture(manifest: Manifest) -> str:
    return "not known" if manifest.config is None else json.dumps(asdict(manifest.config))


def _json(preprocessing: Preprocessing | None) -> str:
    return "not known" if preprocessing is None else preprocessing.model_dump_json()


def _datasets(manifest: Manifest) -> list[dict[str, Any]]:
    """The calibration images; the data that the network was trained on is not known."""
    record = manifest.quantization
    if record is None:
        return []
    return [
        {
            "type": "dataset",
            "name": record.source,
            "description": (
                f"{record.images} calibration images, method {record.method}, sha256"
                f" {record.source_sha256}"
            ),
        }
    ]


def _metrics(artifact: Artifact) -> list[dict[str, Any]]:
    from resnext.verify.margins import clopper_pearson
    from resnext.verify.verdict import check_binding, read_verdict

    metrics: list[dict[str, Any]] = []
    if (check := artifact.manifest.check) is not None:
        batches = " and ".join(map(str, check.batches))
        metrics.append(
            {
                "type": "largest error of a logit, relative to their RMS, when exported",
                "value": f"{check.max_error:.6g}",
                "slice": f"against eager PyTorch, batch {batches}, on {check.backend}",
            }
        )
    if not (artifact.directory / VERDICT_NAME).exists():
        return metrics
    verdict = read_verdict(artifact.directory)
    check_binding(artifact, verdict)
    parity = verdict.parity
    where = f"{parity.rows} images, on {verdict.runtime}, {verdict.capability}"
    metrics.append(
        {
            "type": "largest error of a logit, relative to their RMS",
            "value": f"{parity.max_error:.6g}",
            "slice": f"against eager PyTorch, {where}",
        }
    )
    assert parity.top1 is not None  # it passed, so there are numbers
    low, high = clopper_pearson(round(parity.top1 * parity.rows), parity.rows)
    metrics.append(
        {
            "type": "top-1 agreement with eager PyTorch",
            "value": f"{parity.top1:.6g}",
            "slice": where,
            "confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"},
        }
    )
    if verdict.delivered is not None:
        metrics.append(
            {
                "type": f"share of convolution and product FLOPs in {artifact.manifest.precision}",
                "value": f"{verdict.delivered.share:.6g}",
                "slice": f"on {verdict.runtime}, {verdict.capability}",
            }
        )
    if (timing := verdict.timing) is not None:
        metrics.append(
            {
                "type": f"median latency, milliseconds, boundary {timing.boundary}",
                "value": f"{timing.median_ns / 1e6:.6g}",
                "slice": f"batch {timing.batch}, on {verdict.runtime}, {verdict.capability}",
            }
        )
    return metrics


def _format(spec: TensorSpec) -> str:
    shape = " x ".join("N" if size is None else str(size) for size in spec.shape)
    return f"{spec.name}: {spec.dtype}, {shape}"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
