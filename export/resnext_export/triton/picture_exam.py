"""Pictures in, class names out: a served ensemble compared with what the toolkit itself gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resnext.artifact.files import Artifact
from resnext.errors import BadWeights
from resnext.findings import Finding
from resnext.images.odd_pictures import odd_pictures
from resnext.progress import working
from resnext.storage import scratch_folder
from resnext.verify.check import logits_dtype, recorded_weights
from resnext.verify.reference import Reference
from resnext.weights.shipped import SHIPPED

from .network_exam import Examined
from .served import Served
from .wire import Wire

_MOST_SHIPPED = 8


def network_of(model: Served, models: Mapping[str, Served]) -> Artifact | None:
    """The artifact behind an ensemble that takes pictures; None for any other model."""
    inputs = model.config.input
    steps = model.config.ensemble_scheduling.step
    if model.backend != "ensemble" or not steps or len(inputs) != 1:
        return None
    types = type(inputs[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    last = models.get(steps[-1].model_name)
    if types[inputs[0].data_type].name != "TYPE_STRING" or last is None:
        return None
    return next((it.artifact for it in last.tensors.values() if it.artifact is not None), None)


def examine_pictures(model: Served, artifact: Artifact, wire: Wire) -> Examined:
    """Send pictures in several formats, and compare logits and class names.

    Args:
        model: the ensemble.
        artifact: of its network.
        wire: the server.

    Raises:
        ResnextError: the server is not there, or refuses a sound picture.
    """
    found, manifest = Examined(), artifact.manifest
    try:
        weights = recorded_weights(artifact)
    except BadWeights as exc:
        found.unchecked.append(f"{model.name}: comparison with PyTorch: {exc.message}")
        return found
    with scratch_folder() as folder, working(f"sending pictures to {model.name}"):
        paths = _pictures(artifact, folder)
        reference = Reference(
            weights, np.concatenate([manifest.prepared.load(path) for path in paths]), "pictures"
        )
        source, output = model.config.input[0].name, manifest.outputs[0].name
        # Without batches the server's dimensions are the whole request's.
        batched, count = model.config.max_batch_size > 0, max(1, model.config.input[0].dims[0])
        logits, labels = [], []
        for path in paths:
            picture = np.array([path.read_bytes()] * (1 if batched else count), dtype=object)
            data = {source: picture[np.newaxis] if batched else picture}
            logits.append(wire.infer(model.name, data, output)[:1])
            if len(picture) == 1:
                labels.append(wire.labels(model.name, data, output, 1)[0][1])
    outcome = reference.parity(
        np.concatenate(logits),
        manifest.numerics,
        artifact,
        dtype=logits_dtype(artifact, "v2"),
        graph=artifact if manifest.kind == "onnx" else None,
    )
    if outcome.failures:
        message = f"pictures: {'; '.join(outcome.failures)}"
        hint = "is its preprocessing that of the artifact, with the same release of Pillow?"
        found.findings.append(Finding("served-pictures", message, hint, where=model.name))
    if manifest.class_names and labels:
        best = np.concatenate(logits).argmax(axis=1)
        want = [" ".join(manifest.class_names[index].split()) for index in best]
        if labels != want:
            message = f"its class names are {', '.join(labels)}, and those of its logits"
            message += f" {', '.join(want)}"
            found.findings.append(Finding("served-label", message, where=model.name))
    if not found.findings:
        found.lines.append(
            f"{model.name}: {len(paths)} pictures, with the logits and class names that the"
            " toolkit gives them"
        )
    return found


def _pictures(artifact: Artifact, folder: Path) -> list[Path]:
    """Pictures of many formats, and some that come with shipped weights."""
    shipped = SHIPPED.get(artifact.manifest.weights.source)
    paths = [] if shipped is None else sorted(shipped.images.glob("*.png"))[:_MOST_SHIPPED]
    for picture in odd_pictures(artifact.manifest.prepared):
        path = folder / picture.name
        path.write_bytes(picture.data)
        paths.append(path)
    return paths
