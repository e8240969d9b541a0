"""From weights to a checked AOTInductor package: compile, write, run the file, compare, seal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.artifact.files import Artifact
from resnext.artifact.identity import file_facts
from resnext.artifact.manifest import CheckRecord, Manifest
from resnext.machine.environment import versions_of
from resnext.machine.machine import this_machine
from resnext.network.config import variant_name
from resnext.precision import DEFAULT
from resnext.progress import working
from resnext.runtimes.pt2.record import loadable, this_host
from resnext.verify.subject import Network, weights_of
from resnext.version import __version__
from resnext_export import proof
from resnext_export.convert import pt2_from_torch as converter
from resnext_export.publish import Built
from resnext_export.registry import PackageOptions

from .base import Builder

if TYPE_CHECKING:
    from resnext.weights.spec import Weights
    from resnext_export.request import ExportRequest

FILE_NAME = "model.pt2"


class PackageBuilder(Builder):
    """A package compiled from the weights."""

    def prepare(self, request: ExportRequest) -> str:
        """Look for a compiler, and for the device."""
        with working("looking for a compiler"):
            options = _options(request)
            converter.refuse_if_not_compilable(
                request.precision or DEFAULT, options.device, options.kernels
            )
        return request.format

    def key(self, request: ExportRequest, weights: Network) -> Mapping[str, Any]:  # noqa: ARG002
        """PyTorch's version, Triton's where it compiles the toolkit's kernels, and the processor or
        GPU; the ONNX libraries do not matter.
        """
        options = _options(request)
        host, gpus = this_host(), this_machine().driver.gpus
        return {
            "toolkit": __version__,
            **asdict(host),
            "cpu_flags": sorted(host.cpu_flags),
            "gpu": gpus[0].name if gpus and options.device == "cuda" else None,
            **versions_of(_compilers(options)),
        }

    def usable(self, manifest: Manifest) -> bool:
        """Whether it was checked and runs on this machine."""
        return super().usable(manifest) and not loadable(manifest, this_host())

    def build(
        self,
        source: Weights | Artifact,
        weights: Network,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
        cache: Path | None,  # noqa: ARG002
    ) -> Built:
        """Compile the weights.

        The package runs on machines like this one: with this version of PyTorch, and a processor
        with the same x86-64 level (or a GPU with the same compute capability). Its manifest lists
        them.

        Raises:
            UsageError: packages do not support the precision.
            MissingRequirement: no C++ compiler, or no CUDA device.
            SessionFailed: the compiler failed.
            GateFailed: the traced graph differs from the request.
        """
        assert source is weights
        known = weights_of(weights)
        (batch,) = request.profiles()
        precision, options = request.precision or DEFAULT, _options(request)
        baked = request.bake_preprocessing
        metadata = {
            "resnext.model": variant_name(known.config) or "custom",
            "resnext.weights": Path(known.source).name,
            **file_facts(
                config=known.config,
                weights_sha256=known.sha256,
                preprocessing=known.preprocessing,
                preprocessing_baked=baked,
                class_names=known.class_names,
            ),
        }
        with working(f"compiling for {options.device}, half a minute or more"):
            record = converter.pt2_from_torch(
                known,
                batch,
                folder / FILE_NAME,
                bake_preprocessing=baked,
                precision=precision,
                device=options.device,
                kernels=options.kernels,
                metadata=metadata,
            )
        facts = {
            "kind": request.format,
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
            **versions_of(("numpy", *_compilers(options))),
        }

        def proven(artifact: Artifact) -> CheckRecord:
            return proof.prove(artifact, proof.expect(weights, batch, precision), "pt2")

        return Built(FILE_NAME, facts, versions, proven)


def _options(request: ExportRequest) -> PackageOptions:
    assert isinstance(request.options, PackageOptions)
    return request.options


def _compilers(options: PackageOptions) -> tuple[str, ...]:
    """Compilers beside PyTorch's that change what is made."""
    return ("triton",) if options.kernels == "fused" else ()
