"""The whole way from weights to a proven AOTInductor package: compile, write, run what was written,
compare, seal.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resnext.artifact.files import Artifact
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import BatchRange
from resnext.errors import UsageError
from resnext.network.config import variant_name
from resnext.precision import Precision
from resnext.progress import working
from resnext.version import __version__
from resnext_export import proof
from resnext_export.publish import Built, publish

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_export.cli.engine_options import EngineRequest
    from resnext_export.request import Asked

FILE_NAME = "model.pt2"
Device = Literal["cpu", "cuda"]


def export_pt2(
    weights: Weights,
    directory: Path,
    *,
    batch: BatchRange | None = None,
    precision: Precision = "fp32",
    bake_preprocessing: bool = False,
    device: Device = "cpu",
    check: bool = True,
    force: bool = False,
) -> Artifact:
    """Compile ``weights`` to ``directory``, whole or not at all.

    The package runs on machines like this one: with this version of PyTorch, and a processor that
        has the same level of
    x86-64 (or the GPU's compute capability). Its manifest says what it needs.

    Args:
        weights: what to compile.
        directory: folder to make; ``model.pt2`` and ``manifest.json`` appear in it together.
        batch: batch sizes to take; None means any.
        precision: of weights and activations, fp32 or fp16; input and output stay float32 (or
            uint8).
        bake_preprocessing: take uint8 N x H x W x C pixels and normalise inside the compiled code.
        device: what to compile for.
        check: run the written file and compare with eager PyTorch; off, the manifest says that
            nothing was compared.
        force: replace an artifact that is already there.

    Raises:
        UsageError: ``directory`` is taken, or a package is not made in that precision.
        MissingRequirement: no C++ compiler, no CUDA device, or no room on the disk.
        SessionFailed: the compiler failed.
        GateFailed: the traced graph is not as asked, or the written file does not compute what
            PyTorch computes. Nothing is written.
    """
    batch = batch or BatchRange(min=1, opt=8, max=None)

    def build(folder: Path) -> Built:
        return _build(weights, batch, precision, device, folder, baked=bake_preprocessing)

    return publish(weights, directory, build, check=check, force=force)


def _build(
    weights: Weights,
    batch: BatchRange,
    precision: Precision,
    device: Device,
    folder: Path,
    *,
    baked: bool,
) -> Built:
    from resnext_export.convert.pt2_from_torch import pt2_from_torch

    metadata = {
        "resnext.model": variant_name(weights.config) or "custom",
        "resnext.weights": Path(weights.source).name,
        **file_facts(
            config=weights.config,
            weights_sha256=weights.sha256,
            preprocessing=weights.preprocessing,
            preprocessing_baked=baked,
            class_names=weights.class_names,
        ),
    }
    with working(f"compiling for {device}, half a minute or more"):
        record = pt2_from_torch(
            weights,
            batch,
            folder / FILE_NAME,
            bake_preprocessing=baked,
            precision=precision,
            device=device,
            metadata=metadata,
        )
    facts = {
        "kind": "pt2",
        "precision": record.precision,
        "inputs": record.inputs,
        "outputs": record.outputs,
        "batch": record.batch,
        "preprocessing_baked": baked,
        "opset": None,
        "package": record,
    }
    versions = {
        "resnext-toolkit": __version__,
        "torch": record.torch,
        "numpy": version("numpy"),
    }
    return Built(
        FILE_NAME,
        facts,
        versions,
        lambda artifact: proof.prove(artifact, proof.expect(weights, batch, precision), "pt2"),
    )


def export_pt2_as_asked(asked: Asked, request: EngineRequest) -> Artifact:
    """What ``resnext-export --format pt2`` does.

    Raises:
        UsageError: an option that only an ONNX artifact has.
        ResnextError: whatever `export_pt2` raises; what can be known is asked before any weights
            are loaded.
    """
    from resnext_export.convert.pt2_from_torch import refuse_if_not_compilable

    given = (*(["--onnx"] if request.onnx is not None else []), *asked.recipe.given())
    if given:
        raise UsageError(
            f"a .pt2 package is made from the weights, not from an ONNX artifact; drop {given[0]}"
        )
    precision, device = asked.precision or "fp32", asked.device or "cpu"
    batch = BatchRange.parse(asked.batch or "1:8")
    with working("looking for a compiler"):
        refuse_if_not_compilable(precision, device)
    weights = asked.weights()
    return export_pt2(
        weights,
        asked.directory(weights, precision, "pt2"),
        batch=batch,
        precision=precision,
        device=device,
        bake_preprocessing=asked.bake_preprocessing,
        check=asked.check,
        force=asked.force,
    )
