"""From an ONNX artifact to a checked engine: build, with fallbacks if allowed, compare, seal."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from resnext.artifact.files import KIT_NAME, Artifact
from resnext.artifact.graph import onnx_bytes
from resnext.artifact.manifest import BatchRange, CheckRecord, Manifest, WeightsRecord
from resnext.artifact.records import EngineOptions, EngineRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, BadWeights, UsageError
from resnext.machine.machine import Machine, this_machine
from resnext.precision import DEFAULT, PRECISIONS
from resnext.readers.files import file_sha256
from resnext.readers.shapes import InvalidGraph
from resnext.runtimes.compatibility import loadable, machine_for
from resnext.runtimes.trt.identity import engine_name
from resnext.runtimes.trt.library import EngineKind, Library, library_for, library_of
from resnext.verify.check import artifact_weights, as_recorded
from resnext.verify.conformance import write_kit
from resnext.verify.subject import Network
from resnext.weights.spec import Weights, load_weights
from resnext_export import proof
from resnext_export.convert import onnx_from_torch
from resnext_export.passes.base import run_pass
from resnext_export.passes.lower import Lower
from resnext_export.publish import Built, library_versions, publish
from resnext_export.registry import EngineChoices
from resnext_export.request import ExportRequest
from resnext_export.tensorrt import refit
from resnext_export.tensorrt.engine_from_onnx import BuiltEngine, check_parses, engine_from_onnx
from resnext_export.tensorrt.fallbacks import Tried, build_with_fallbacks
from resnext_export.tensorrt.progress import BuildWatch, build_bars
from resnext_export.tensorrt.timing_cache import TimingCache

from .base import Builder

if TYPE_CHECKING:
    import onnx
FILE_NAME = "model.engine"


class EngineBuilder(Builder):
    """An engine of an ONNX artifact. One builder asks about its machine once."""

    @cached_property
    def machine(self) -> Machine:
        """Driver and platform."""
        return this_machine()

    def prepare(self, request: ExportRequest) -> str:
        """Find the library, and check that it supports the request."""
        library = library_for(cast("EngineKind", request.format))
        options = engine_options(request)
        check_request(library, options, _choices(request).timing_cache, self.machine)
        return library.kind

    def key(self, request: ExportRequest, weights: Network) -> Mapping[str, Any]:  # noqa: ARG002
        """Library, GPU and driver."""
        library = library_for(cast("EngineKind", request.format))
        options = engine_options(request).model_dump(mode="json")
        return {**machine_facts(library, self.machine), "options": options}

    def usable(self, manifest: Manifest) -> bool:
        """Whether it was checked, or cannot run here, as then a new build is not checked either."""
        assert manifest.engine is not None
        machine = machine_for(manifest, self.machine)
        return super().usable(manifest) or bool(loadable(manifest, machine))

    def build(
        self,
        source: Weights | Artifact,
        weights: Network,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,
        say: Callable[[str], None],  # noqa: ARG002
        cache: Path | None,
    ) -> Built:
        """Build the engine; with a ``cache``, kernel timings are kept there for this machine.

        If this machine can load the engine, `Built.prove` runs it. If not (TensorRT-RTX, ahead of
        time, for another GPU), its manifest has no check.

        Raises:
            UsageError: the library or ``source`` does not support an option.
            MissingRequirement: the library, or a GPU that it needs, is missing.
            EngineRefused: the library does not build it, and no allowed fallback helps.
        """
        assert isinstance(source, Artifact)
        self.prepare(request)
        library = library_for(cast("EngineKind", request.format))
        options, times = engine_options(request), _choices(request).timing_cache
        shared = times is not None
        if times is None and cache is not None and library.kind == "trt":
            facts = json.dumps(machine_facts(library, self.machine), sort_keys=True).encode()
            times = cache / "trt-timing" / f"{hashlib.sha256(facts).hexdigest()[:24]}.cache"
        check_parent(source, options)
        return _build(
            source,
            weights,
            library,
            options,
            folder,
            self.machine,
            timing_cache=times,
            shared=shared,
            check=check,
        )


def engine_options(request: ExportRequest) -> EngineOptions:
    """The builder options in ``request``."""
    choices = asdict(_choices(request))
    choices.pop("timing_cache")
    fallbacks = choices.pop("fallbacks")
    return EngineOptions(
        profiles=request.profiles(), fallbacks=() if fallbacks == "fail" else fallbacks, **choices
    )


def machine_facts(library: Library, machine: Machine) -> dict[str, Any]:
    """What an engine and its kernel timings depend on, besides the graph."""
    driver = machine.driver
    return {
        "library": library.package,
        "version": library.version,
        "cuda": library.cuda,
        "gpu": [asdict(gpu) for gpu in driver.gpus[:1]],
        "driver": driver.cuda_version,
    }


def _choices(request: ExportRequest) -> EngineChoices:
    assert isinstance(request.options, EngineChoices)
    return request.options


def _build(
    parent: Artifact,
    weights: Network,
    library: Library,
    options: EngineOptions,
    folder: Path,
    machine: Machine,
    *,
    timing_cache: Path | None,
    shared: bool,
    check: bool,
) -> Built:
    times = None if timing_cache is None else TimingCache(timing_cache, shared=shared)

    def build(source: bytes, watch: BuildWatch) -> BuiltEngine:
        return engine_from_onnx(
            source,
            library,
            options,
            shapes=_open_shapes(parent.manifest),
            timing_cache=times,
            watch=watch,
            name=engine_name(parent.manifest, refittable=options.strip_weights, tf32=options.tf32),
            machine=machine,
        )

    with build_bars() as watch:
        tried = build_with_fallbacks(
            _parent_bytes(parent, library), lambda source: build(source, watch), options.fallbacks
        )
    if tried.done and options.strip_weights:
        raise UsageError(
            f"`strip_weights` needs a graph as exported, and it had to be changed: {tried.done[0]}"
        )
    if tried.changed is not None and check:
        _prove_changed(tried.changed, parent, weights, folder)
    (folder / FILE_NAME).write_bytes(tried.engine.data)

    def proven(artifact: Artifact) -> CheckRecord | None:
        if loadable(artifact.manifest, machine_for(artifact.manifest, machine)):
            return None
        return _proven(weights, parent, artifact)

    facts = _facts(parent.manifest, library, options, machine, tried)
    return Built(FILE_NAME, facts, library_versions(library.package), proven)


def _parent_bytes(parent: Artifact, library: Library) -> bytes:
    """The ONNX file. Of one that is not valid, the library's parser has the clearer message.

    Raises:
        BadArtifact, EngineRefused: it is refused.
    """
    try:
        return onnx_bytes(parent)
    except BadArtifact as exc:
        if isinstance(exc.__cause__, InvalidGraph):
            check_parses(parent.read(), library)
        raise


def refit_engine(
    thin: Artifact, spec: str | None, directory: Path, *, check: bool = True, force: bool = False
) -> Artifact:
    """Put weights into a stripped engine, in ``directory``, whole or not at all.

    Args:
        thin: the engine without weights.
        spec: weights to load, see `load_weights`; None means those that it was built from.
        directory: folder to create.
        check: compare the refitted engine with PyTorch.
        force: replace an artifact that is already there.

    Raises:
        BadWeights: the weights have another configuration, preprocessing or class names than the
            engine.
        EngineRefused: the library rejects the weights.
        GateFailed: the refitted engine does not match PyTorch. Nothing is written.
    """
    manifest, record = thin.manifest, thin.manifest.engine
    assert record is not None
    if spec is None:
        weights = artifact_weights(thin)
    else:
        weights = as_recorded(
            load_weights(spec, manifest.network, key=manifest.weights.key), manifest
        )
    if (
        weights.preprocessing != manifest.preprocessing
        or weights.class_names != manifest.class_names
    ):
        raise BadWeights(
            f"weights {weights.source} declare another preprocessing or other class names than the"
            " engine has inside; build an engine from them"
        )
    any_batch = BatchRange(min=1, opt=8, max=None)
    proto = onnx_from_torch.onnx_from_torch(
        weights, any_batch, bake_preprocessing=manifest.preprocessing_baked
    )
    if (half := PRECISIONS[manifest.precision].lowered_to) is not None:
        native_io = manifest.outputs[0].dtype != "float32"
        keep = () if manifest.kept is None else manifest.kept.layers
        proto = run_pass(Lower(half, native_io=native_io, keep=keep), proto).proto
    library = library_of(record.library)
    data = refit.refitted_from_engine(
        thin.read(), proto.SerializeToString(), library, record.options
    )
    facts = {
        "weights": WeightsRecord.model_validate(weights.provenance),
        "engine": record.model_copy(update={"refitted": True}),
    }

    request = _in_one_go(manifest, weights)

    def build(folder: Path) -> Built:
        (folder / FILE_NAME).write_bytes(data)
        if request is not None and request.conformance_kit:
            write_kit(folder / KIT_NAME, weights)
        return Built(FILE_NAME, facts, manifest.versions, partial(_proven, weights, None))

    return publish(thin, directory, build, request=request, check=check, force=force)


def _in_one_go(thin: Manifest, weights: Weights) -> ExportRequest | None:
    """The request for the engine of ``thin`` with ``weights`` inside from the start; None if
    ``thin`` was made from an ONNX artifact of other weights.
    """
    if thin.request is None:
        return None
    request = ExportRequest(**thin.request)
    if request.onnx is not None and weights.sha256 != thin.weights.sha256:
        return None
    return replace(
        request,
        weights=weights.source,
        model=request.model if request.onnx else thin.model,
        options=replace(_choices(request), strip_weights=False),
    )


def check_request(
    library: Library, options: EngineOptions, timing_cache: Path | None, machine: Machine
) -> None:
    """Check that ``library`` can build with these options on ``machine``, before any work is done.

    Raises:
        UsageError: the library does not have an option.
        MissingRequirement: it needs a GPU.
    """
    if library.kind == "trt-rtx" and timing_cache is not None:
        raise UsageError(
            "`timing_cache` is TensorRT's: TensorRT-RTX times no kernels when it builds"
        )
    library.check_can_build(options, machine.driver)


def check_parent(parent: Artifact, options: EngineOptions) -> None:
    """Check that an engine with these options can be made of ``parent``.

    Raises:
        UsageError: it cannot.
    """
    manifest = parent.manifest
    if options.tf32 and manifest.precision != DEFAULT:
        raise UsageError(
            f"`tf32` is for float32 engines, and this one is {manifest.precision}; drop it"
        )
    if options.strip_weights and manifest.foreign:
        raise UsageError(
            f"`strip_weights` leaves an engine to be filled with weights, and those of"
            f" {parent.path} are in no checkpoint; drop it"
        )
    if options.strip_weights and manifest.merged is not None:
        raise UsageError(
            "`strip_weights` needs a graph as exported, and this one's groups were merged; drop one"
            " of the two"
        )
    if options.strip_weights and manifest.quantization is not None:
        raise UsageError(
            f"`strip_weights` is for float networks; the scales of {manifest.precision} are for"
            " these very weights"
        )
    for profile in options.profiles:
        if not (profile.min in manifest.batch and (profile.max or 0) in manifest.batch):
            raise UsageError(
                f"the ONNX artifact takes batch {manifest.batch}, so not the profile {profile}"
            )


def _open_shapes(manifest: Manifest) -> dict[str, tuple[int | None, ...]]:
    return {spec.name: spec.shape for spec in manifest.inputs if None in spec.shape}


def _facts(
    of: Manifest, library: Library, options: EngineOptions, machine: Machine, tried: Tried
) -> dict[str, Any]:
    driver = machine.driver
    gpu = driver.gpus[0] if driver.gpus else None
    version = library.version
    assert version is not None
    return {
        "kind": library.kind,
        "batch": options.batch,
        "inputs": tuple(_sized(spec, options) for spec in of.inputs),
        "outputs": tuple(_sized(spec, options) for spec in of.outputs),
        "engine": EngineRecord(
            library=library.package,
            version=version,
            cuda=library.cuda,
            platform=machine.platform,
            gpu=gpu and gpu.name,
            compute_capability=gpu and gpu.compute_capability,
            cuda_driver=driver.cuda_version,
            options=options,
            done=tried.done,
            build_s=round(tried.engine.build_s, 3),
            layers=tried.engine.layers,
            layers_from=tried.engine.layers_from,
        ),
    }


def _sized(spec: TensorSpec, options: EngineOptions) -> TensorSpec:
    batch = options.batch.min if options.batch.static and len(options.profiles) == 1 else None
    return spec.model_copy(
        update={"shape": (spec.shape[0] if spec.shape[0] is not None else batch, *spec.shape[1:])}
    )


def _prove_changed(
    proto: onnx.ModelProto, parent: Artifact, weights: Network, folder: Path
) -> None:
    """Compare the changed graph with PyTorch, on ONNX Runtime, which needs no GPU."""
    manifest = parent.manifest
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # removed with the folder in any case
        path = Path(scratch) / manifest.file
        path.write_bytes(proto.SerializeToString())
        stand_in = manifest.model_copy(
            update={"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
        )
        proof.prove(
            Artifact(Path(scratch), stand_in),
            proof.expect(weights, manifest.batch, manifest.precision, parent=parent),
            exported=False,
        )


def _proven(weights: Network, parent: Artifact | None, artifact: Artifact) -> CheckRecord:
    manifest = artifact.manifest
    assert manifest.engine is not None
    profiles = manifest.engine.options.profiles
    batches = tuple(
        sorted(
            {size for profile in profiles for size in (profile.min, profile.opt, profile.max or 0)}
        )
    )
    expected = proof.expect(weights, manifest.batch, manifest.numerics, batches, parent)
    return proof.prove(artifact, expected, manifest.kind)
