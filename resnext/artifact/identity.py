"""Facts that a model file carries about itself, so that an edited manifest is noticed.

A manifest holds the digest of the file, but nothing holds a digest of the manifest. Whatever
changes an answer and is not visible in the graph (preprocessing, class names, weights) is therefore
written into the file as well, and compared when the file is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType

from pydantic import BaseModel, ValidationError

from resnext.errors import BadArtifact
from resnext.images.preprocessing import Preprocessing
from resnext.network.config import ResNeXtConfig

from .files import Artifact
from .manifest import (
    EqualizationRecord,
    KeptRecord,
    Manifest,
    MergeRecord,
    QuantizationRecord,
    RangeRecord,
)
from .specs import TensorSpec

_PREFIX = "resnext."
#: Records of the manifest that the file carries, too: how it was made from another file.
_RECORDS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "quantization": QuantizationRecord,
        "merged": MergeRecord,
        "ranges": RangeRecord,
        "kept": KeptRecord,
        "equalized": EqualizationRecord,
    }
)


def file_facts(
    *,
    weights_sha256: str,
    preprocessing: Preprocessing,
    preprocessing_baked: bool,
    class_names: tuple[str, ...],
    config: ResNeXtConfig | None = None,
) -> dict[str, str]:
    """Facts to write into a file's metadata.

    Args:
        weights_sha256: digest of the tensors.
        preprocessing: what an image goes through before the network.
        preprocessing_baked: the graph normalizes pixels itself.
        class_names: one for each logit, or none.
        config: the network, if it cannot be read from the file.

    Returns:
        Texts by key; keys and spelling are part of the file format and never change.
    """
    facts = {} if config is None else {"config": json.dumps(asdict(config), sort_keys=True)}
    facts |= {
        "weights_sha256": weights_sha256,
        "preprocessing": preprocessing.model_dump_json(),
        "preprocessing_baked": json.dumps(preprocessing_baked),
        "class_names": json.dumps(list(class_names)),
    }
    return {_PREFIX + key: value for key, value in facts.items()}


def record_facts(
    *,
    quantization: QuantizationRecord | None,
    merged: MergeRecord | None,
    ranges: RangeRecord | None,
    equalized: EqualizationRecord | None = None,
    kept: KeptRecord | None = None,
) -> dict[str, str]:
    """Records of a manifest to write into a file's metadata: texts by key; None writes nothing."""
    records = {
        "quantization": quantization,
        "merged": merged,
        "ranges": ranges,
        "equalized": equalized,
        "kept": kept,
    }
    return {
        _PREFIX + name: record.model_dump_json()
        for name, record in records.items()
        if record is not None
    }


def different_facts(
    manifest: Manifest, read: Callable[[str], str | None], *, config: bool = False
) -> list[str]:
    """Names of the facts on which file and manifest do not agree.

    Args:
        manifest: the manifest beside the file.
        read: looks up one key of the file's metadata; None if it is missing.
        config: the file carries its configuration, too.
    """
    if manifest.foreign:  # the file says nothing, and the manifest only what the graph says
        return []
    facts = file_facts(
        weights_sha256=manifest.weights.sha256,
        preprocessing=manifest.prepared,
        preprocessing_baked=manifest.preprocessing_baked,
        class_names=manifest.class_names,
        config=manifest.config if config else None,
    )
    different = [key.removeprefix(_PREFIX) for key, value in facts.items() if read(key) != value]
    return different + [name for name in _RECORDS if not _same_record(name, manifest, read)]


def _same_record(name: str, manifest: Manifest, read: Callable[[str], str | None]) -> bool:
    """Whether the file says the same of ``name``. Earlier files say nothing."""
    text, record = read(_PREFIX + name), getattr(manifest, name)
    if text is None:
        if name in ("equalized", "kept"):  # from the beginning in the file, too
            return record is None
        # Ranges came into the manifest together with the records in the file.
        return name != "quantization" or record is None or record.ranges is None
    try:
        return bool(record == _RECORDS[name].model_validate_json(text))
    except ValidationError:
        return False


def different_tensors(
    manifest: Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> list[str]:
    """``inputs`` and ``outputs``, as far as the file's do not agree with the manifest's.

    Of a file from elsewhere, the manifest has sizes that the graph implies, and runtimes may report
    fewer.
    """
    pairs = {"inputs": (inputs, manifest.inputs), "outputs": (outputs, manifest.outputs)}
    alike = _alike if manifest.foreign else tuple.__eq__
    return [name for name, (actual, declared) in pairs.items() if not alike(actual, declared)]


def _alike(actual: tuple[TensorSpec, ...], declared: tuple[TensorSpec, ...]) -> bool:
    """Whether names, element types and known sizes are the same."""
    return len(actual) == len(declared) and all(
        (here.name, here.dtype, len(here.shape)) == (there.name, there.dtype, len(there.shape))
        and all(
            size == want or None in (size, want)
            for size, want in zip(here.shape, there.shape, strict=True)
        )
        for here, there in zip(actual, declared, strict=True)
    )


def refuse_different(artifact: Artifact, different: list[str]) -> None:
    """Refuse an artifact whose file and manifest do not agree.

    Args:
        artifact: the artifact.
        different: what they do not agree on; nothing happens if it is empty.

    Raises:
        BadArtifact: names every difference.
    """
    if different:
        engine = artifact.manifest.engine is not None
        raise BadArtifact(
            f"the manifest of {artifact.path} does not agree with the"
            f" {'engine' if engine else 'file'} on {', '.join(different)}",
            hint="one of them was altered: "
            + ("build the engine again" if engine else "export the artifact again"),
        )
