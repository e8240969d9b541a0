"""The name inside an engine: a digest of what its manifest says and the engine itself cannot.

An engine knows its tensors and profiles, but not its preprocessing, class names or weights. An
edited manifest could change answers, since only the engine's bytes are under the manifest's digest;
the name inside those bytes would differ.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from resnext.artifact.identity import refuse_different

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.artifact.manifest import Manifest

_PREFIX = "resnext-facts-"
#: What another name means: one of these differs.
NAMED_FACTS = "model, weights, precision, TF32, preprocessing or class names"


def engine_name(manifest: Manifest, *, refittable: bool, tf32: bool = False) -> str:
    """The network name that an engine of ``manifest``, or of the ONNX file that it describes, must
    bear.

    Args:
        manifest: of the engine, or of the ONNX artifact that it is built from.
        refittable: leave the weights out: a refit changes them and cannot change the name.
        tf32: the engine may round to TF32, which widens the gate that its parity is judged by.
    """
    facts = {
        "config": asdict(manifest.config),
        "precision": manifest.precision,
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "preprocessing_baked": manifest.preprocessing_baked,
        "class_names": list(manifest.class_names),
        "weights": None if refittable else manifest.weights.sha256,
        "tf32": tf32,
    }
    return _PREFIX + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def check_engine_bytes(artifact: Artifact) -> None:
    """Check, without loading it, that an engine bears the name that its manifest leads to.

    TensorRT-RTX keeps the name readable in the file. TensorRT may not; then only a session can
    tell.

    Raises:
        BadArtifact: the engine is not the one that the manifest tells of, or is no engine at all.
    """
    manifest, record = artifact.manifest, artifact.manifest.engine
    if record is None:
        return
    with (
        artifact.path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = re.search(_PREFIX.encode() + rb"[0-9a-f]{64}", data)
        borne = None if found is None else found[0].decode()
    if borne is None and record.library == "tensorrt":
        return
    options = record.options
    if borne != engine_name(manifest, refittable=options.strip_weights, tf32=options.tf32):
        refuse_different(artifact, [NAMED_FACTS])
