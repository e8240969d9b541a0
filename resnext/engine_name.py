"""The name inside an engine: a digest of what its manifest says and the engine itself cannot.

An engine knows its tensors and profiles, but not its preprocessing, class names or weights. An edited manifest could
change answers, since only the engine's bytes are under the manifest's digest; the name inside those bytes would differ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .manifest import Manifest

_PREFIX = "resnext-facts-"


def engine_name(manifest: Manifest, *, refittable: bool, tf32: bool = False) -> str:
    """The network name that an engine of ``manifest``, or of the ONNX file that it describes, must bear.

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
