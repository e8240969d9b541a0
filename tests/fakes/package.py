"""AOTInductor packages without a compiler: the files are real archives, and the code in them is a
function of the test.

`FakeLoader` stands for `AOTIModelPackageLoader`. Everything around the code, record, metadata,
manifest and session, is the toolkit's own.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnext.artifact.files import Artifact, read_artifact, seal
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import Manifest, WeightsRecord
from resnext.artifact.records import PackageRecord
from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.artifact.trust import remember_built
from resnext.network.config import variant_name
from resnext.network.layers import layers
from resnext.precision import Precision
from resnext.readers.files import file_sha256
from resnext.runtimes.pt2.package import RECORD_NAME
from resnext.runtimes.pt2.record import this_host
from resnext.weights.spec import Weights

#: What a compiled network computes: logits (N x classes) of images.
Network = Callable[[torch.Tensor], torch.Tensor]


#: The header of a shared library with nothing in it, which no loader takes.
LIBRARY = struct.pack(
    "<7s9xHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0
)


class FakeLoader:
    """Gives what ``network`` gives of one input, read as compiled code reads it: by strides of its
    own.

    Attributes:
        seen: every tensor that the code was given.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.seen: list[torch.Tensor] = []

    def run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """One call of the compiled code.

        Raises:
            RuntimeError: not one tensor.
        """
        if len(tensors) != 1:
            raise RuntimeError(f"expected inputs vector size to be 1, but got {len(tensors)}")
        self.seen += tensors
        strides = torch.empty(tensors[0].shape, device="meta").stride()
        with torch.inference_mode():
            return [self.network(tensors[0].as_strided(tensors[0].shape, strides))]


def record_here(weights: Weights, **changes: Any) -> PackageRecord:
    """Record of a package that this machine can load, with ``changes``."""
    host, config = this_host(), weights.config
    batch = changes.get("batch", BatchRange(min=1, opt=8, max=None))
    first = batch.min if batch.static else None
    names = [layer.name for layer in layers(config)]
    dtype = "float16" if changes.get("precision") == "fp16" else "float32"
    facts: dict[str, Any] = {
        "torch": host.torch,
        "cuda": host.cuda,
        "device": "cpu",
        "platform": host.platform,
        "cpu_capability": host.cpu_capability,
        "cpu_flags": tuple(sorted(host.cpu_flags)),
        "precision": "fp32",
        "batch": batch,
        "inputs": (
            TensorSpec(
                name="input", dtype="float32", shape=(first, config.in_channels, *config.input_size)
            ),
        ),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=(first, config.num_classes)),),
        "frozen": False,
        "layers": tuple(
            {"module": name, "op": "Gemm" if name == "fc" else "Conv", "dtype": dtype}
            for name in names
        ),
        "kernels": {"convolution": len(names) - 1, "addmm_out": 1},
    }
    return PackageRecord.model_validate({**facts, **changes})


def write_package(
    path: Path,
    record: PackageRecord | str,
    metadata: dict[str, str],
    library: bytes = LIBRARY,
) -> None:
    """A package as `pt2_from_torch` lays it out, around ``library``.

    Args:
        path: file to write.
        record: the package's, or any other text in its place.
        metadata: what the exporter notes beside it.
        library: bytes of the compiled code.
    """
    with zipfile.ZipFile(path, "w") as archive:
        model = "m/data/aotinductor/model/resnext.wrapper"
        archive.writestr(
            f"{model}_metadata.json", json.dumps({"AOTI_DEVICE_KEY": "cpu", **metadata})
        )
        archive.writestr(f"{model}.cpp", "// The source is not packaged.\n")
        archive.writestr(f"{model}.so", library)
        archive.writestr(
            f"m/extra/{RECORD_NAME}",
            record if isinstance(record, str) else record.model_dump_json(),
        )
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/archive_version", "0")
        archive.writestr("m/.data/version", "6\n")
        archive.writestr("m/byteorder", "little")


def fake_pt2_from_torch(
    weights: Weights,
    batch: BatchRange,
    path: Path,
    *,
    bake_preprocessing: bool,
    precision: Precision,
    device: str,
    kernels: str,
    metadata: dict[str, str],
) -> PackageRecord:
    """Stands for the converter of that name: a package without code, at once."""
    config, first = weights.config, batch.min if batch.static else None
    pixels = TensorSpec(
        name="input", dtype="uint8", shape=(first, *config.input_size, config.in_channels)
    )
    baked = {"inputs": (pixels,)} if bake_preprocessing else {}
    record = record_here(
        weights, batch=batch, precision=precision, device=device, kernels_from=kernels, **baked
    )
    write_package(path, record, metadata)
    return record


def facts_of(weights: Weights) -> dict[str, str]:
    """What an exporter notes of ``weights``, with the preprocessing outside the graph."""
    return file_facts(
        config=weights.config,
        weights_sha256=weights.sha256,
        preprocessing=weights.preprocessing,
        preprocessing_baked=False,
        class_names=weights.class_names,
    )


def sealed(path: Path, weights: Weights, record: PackageRecord) -> Artifact:
    """The artifact around the package at ``path``, its manifest written."""
    manifest = Manifest(
        kind="pt2",
        file=path.name,
        file_sha256=file_sha256(path),
        file_size_bytes=path.stat().st_size,
        model=variant_name(weights.config),
        config=weights.config,
        weights=WeightsRecord(source=weights.source, sha256=weights.sha256),
        precision=record.precision,
        inputs=record.inputs,
        outputs=record.outputs,
        batch=record.batch,
        preprocessing=weights.preprocessing,
        class_names=weights.class_names,
        opset=None,
        versions={},
        created="2026-01-01T00:00:00+00:00",
        package=record,
    )
    seal(path.parent, manifest)
    remember_built(manifest.file_sha256)
    return read_artifact(path.parent)


def fake_package(folder: Path, weights: Weights, record: PackageRecord | None = None) -> Artifact:
    """The artifact of a package without code, in ``folder``; None as ``record`` means one that
    loads here.
    """
    record = record or record_here(weights)
    folder.mkdir(parents=True, exist_ok=True)
    write_package(folder / "model.pt2", record, facts_of(weights))
    return sealed(folder / "model.pt2", weights, record)
