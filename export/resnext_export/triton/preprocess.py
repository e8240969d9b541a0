"""Pictures in, class names out: a Python model before the network, and an ensemble of both."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from resnext.artifact.manifest import Manifest
from resnext.errors import UsageError

from .config import LABELS_NAME, VERSION, write_config
from .pbtxt import Word

#: The input: the bytes of picture files.
PICTURE = "PICTURE"
#: What the names of the two models add to the network's.
PREPROCESS, CLASSIFY = "-preprocess", "-classify"
#: Largest share of a server's CPUs that decoding gets: instances of the Python model.
_MOST_INSTANCES = 4


def check_prepared(manifest: Manifest) -> None:
    """Check that pictures can be prepared for an artifact in Triton's Python backend.

    Raises:
        UsageError: nobody said how, or NumPy lacks the input's type.
    """
    _ = manifest.prepared
    if manifest.inputs[0].dtype == "bfloat16":
        raise UsageError(
            "Triton's Python backend has no bfloat16; drop `with_preprocessing`, or export with"
            " float32 inputs and outputs"
        )


def write_preprocess(folder: Path, manifest: Manifest, network: dict[str, Any], cpus: int) -> None:
    """Write the model that turns pictures into the network's input.

    Args:
        folder: of the model; its name is the model's.
        manifest: of the artifact.
        network: configuration of the network.
        cpus: of the server.
    """
    source = network["input"][0]
    settings = {
        **manifest.prepared.model_dump(mode="json"),
        "baked": manifest.preprocessing_baked,
        "dtype": manifest.inputs[0].dtype,
        "output": source["name"],
    }
    config = {
        "name": network["name"] + PREPROCESS,
        "backend": "python",
        "max_batch_size": network["max_batch_size"],
        "version_policy": {"specific": {"versions": [VERSION]}},
        "input": [_picture(network)],
        "output": [{name: source[name] for name in ("name", "data_type", "dims")}],
        # Without batching: each picture is decoded by itself, and nobody waits for others.
        "instance_group": [{"count": min(cpus, _MOST_INSTANCES), "kind": Word("KIND_CPU")}],
        "parameters": [
            {"key": "settings", "value": {"string_value": json.dumps(settings)}},
        ],
    }
    version = folder / str(VERSION)
    version.mkdir()
    (version / "model.py").write_text(preprocess_model(), encoding="utf-8")
    write_config(folder, config)


def preprocess_model() -> str:
    """The Python model, as every repository has it."""
    return (files(__package__) / "preprocess_model.txt").read_text(encoding="utf-8")


def write_ensemble(folder: Path, manifest: Manifest, network: dict[str, Any]) -> None:
    """Write the model that has pictures as input and the network's logits as output; class names
    for clients that ask for a classification.

    Args:
        folder: of the model; its name is the model's.
        manifest: of the artifact.
        network: configuration of the network.
    """
    name, source, result = network["name"], network["input"][0]["name"], network["output"][0]
    steps = [
        {
            "model_name": name + PREPROCESS,
            "model_version": VERSION,
            "input_map": {"key": PICTURE, "value": PICTURE},
            "output_map": {"key": source, "value": source},
        },
        {
            "model_name": name,
            "model_version": VERSION,
            "input_map": {"key": source, "value": source},
            "output_map": {"key": result["name"], "value": result["name"]},
        },
    ]
    config = {
        "name": name + CLASSIFY,
        "platform": "ensemble",
        "max_batch_size": network["max_batch_size"],
        "version_policy": {"specific": {"versions": [VERSION]}},
        "input": [_picture(network)],
        "output": [result],
        "ensemble_scheduling": {"step": steps},
    }
    (folder / str(VERSION)).mkdir()
    # Folders without files do not travel through object stores.
    (folder / str(VERSION) / "README").write_text("An ensemble has no model file.\n")
    write_config(folder, config)
    if "label_filename" in result:
        write_labels(folder, manifest)


def write_labels(folder: Path, manifest: Manifest) -> None:
    """Write the class names, one a line, as Triton reads them."""
    lines = [" ".join(name.split()) for name in manifest.class_names]
    (folder / LABELS_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _picture(network: dict[str, Any]) -> dict[str, Any]:
    """The input of picture files: one each, or as many as the network's fixed batch."""
    dims = [1] if network["max_batch_size"] else [network["input"][0]["dims"][0]]
    return {"name": PICTURE, "data_type": Word("TYPE_STRING"), "dims": dims}
