"""The network name inside an engine: a digest of the manifest's facts that an engine cannot store.

An engine contains its tensors and profiles, but not its preprocessing, class names or weights. Only
the engine's bytes are under the manifest's digest, so an edited manifest could change answers; then
the name inside those bytes no longer matches.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from resnext.artifact.identity import refuse_different

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest

_PREFIX = "resnext-facts-"
#: The facts in the digest, for messages.
NAMED_FACTS = "model, weights, precision, quantization, TF32, preprocessing or class names"


def engine_name(manifest: Manifest, *, refittable: bool, tf32: bool = False) -> str:
    """The network name of an engine.

    Args:
        manifest: manifest of the engine, or of the ONNX artifact that it is built from.
        refittable: leave the weights out: a refit changes them and cannot change the name.
        tf32: whether the engine may round to TF32, which widens its parity gate.
    """
    facts = {
        "config": None if manifest.config is None else asdict(manifest.config),
        "precision": manifest.precision,
        "preprocessing": None
        if manifest.preprocessing is None
        else manifest.preprocessing.model_dump(mode="json"),
        "preprocessing_baked": manifest.preprocessing_baked,
        "class_names": list(manifest.class_names),
        "weights": None if refittable else manifest.weights.sha256,
        "tf32": tf32,
    }
    quantization = manifest.quantization
    if quantization is not None and quantization.ranges is not None:  # earlier engines lack it
        facts["quantization"] = quantization.model_dump(mode="json", exclude_none=True)
    if manifest.equalized is not None:
        facts["equalized"] = manifest.equalized.model_dump(mode="json")
    return _PREFIX + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_engine_bytes(artifact: Artifact) -> None:
    """Check, without loading the engine, that its name fits its manifest; skip other artifacts.

    TensorRT-RTX stores the name in plain text. TensorRT may not; then only a session can check it.

    Raises:
        BadArtifact: the file is another engine than the manifest's, or no engine at all.
    """
    manifest, record = artifact.manifest, artifact.manifest.engine
    if record is None:
        return
    match = re.search(_PREFIX.encode() + rb"[0-9a-f]{64}", artifact.read())
    name = None if match is None else match[0].decode()
    if name is None and record.library == "tensorrt":
        return
    options = record.options
    if name != engine_name(manifest, refittable=options.strip_weights, tf32=options.tf32):
        refuse_different(artifact, [NAMED_FACTS])
