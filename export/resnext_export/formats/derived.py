"""From an ONNX artifact to a checked one of another precision, or with merged groups."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.graph import onnx_graph
from resnext.artifact.identity import record_facts
from resnext.artifact.manifest import (
    REQUESTED,
    CheckRecord,
    EqualizationRecord,
    KeptRecord,
    Manifest,
    MergeRecord,
    QuantizationRecord,
    RangeRecord,
)
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadInput, GateFailed, UnknownName, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.layers import block_of
from resnext.precision import DEFAULT, PRECISIONS, Numerics, Precision
from resnext.progress import working
from resnext.runtimes.onnx_reference.evaluator import node_by_node
from resnext.storage import scratch_folder
from resnext_export import proof
from resnext_export.calibration.activations import activation_ranges, overflows
from resnext_export.calibration.channels import channel_maxima, tensor_means
from resnext_export.calibration.collect import calibrate
from resnext_export.calibration.images import Source
from resnext_export.calibration.reuse import calibrate_or_reuse
from resnext_export.calibration_images import calibration_images
from resnext_export.derivation import counted
from resnext_export.passes.base import run_pass
from resnext_export.passes.chains import chains
from resnext_export.passes.correct_bias import CorrectBias
from resnext_export.passes.equalize import Equalize, chosen_exponents
from resnext_export.passes.graph import kept_nodes
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.merge_proof import prove_merge
from resnext_export.passes.quantize_fp8 import QuantizeFp8, skipped_by_fp8
from resnext_export.passes.quantize_int8 import QuantizeInt8
from resnext_export.passes.quantized import applied_ranges
from resnext_export.proof import CHECK_BATCHES, DIFFERENT, Expected
from resnext_export.publish import Built, library_versions
from resnext_export.request import ExportRequest
from resnext_export.tuning.merge_width import fastest_merge, stages_of

from .onnx_file import FILE_NAME, write_onnx

if TYPE_CHECKING:
    from resnext.images.sources import ImageSource
    from resnext.weights.spec import Weights
    from resnext_export.calibration.ranges import Ranges
    from resnext_export.options import Method, Runtime
    from resnext_export.passes.lower import HalfPrecision

#: Why the classifier is never quantized.
_CLASSIFIER = "the classifier: next to none of the work, and nothing behind it evens rounding out"


def build_derived(
    parent: Artifact,
    weights: Weights,
    request: ExportRequest,
    folder: Path,
    *,
    check: bool,
    say: Callable[[str], None],
) -> Built:
    """Write the changed graph of ``parent`` into ``folder``.

    Args:
        parent: an ONNX artifact; float32 if ``request`` names another precision.
        weights: the weights of ``parent``, for the comparison.
        request: precision, images to calibrate on, groups to merge.
        folder: where the file goes.
        check: compute what PyTorch gives, for `Built.prove`.
        say: called with each line that the user should see before the work is done.

    Raises:
        UsageError: nothing to do, or no images to calibrate on.
        BadInput: ``parent`` is quantized already or not float32; unusable images.
        GateFailed: a layer's values exceed the precision's range.
        MissingRequirement: the image library is not installed, or the disk is full.
    """
    _precision(parent, request)  # refuses before work begins
    if not request.equalize:
        return _build(parent, weights, request, folder, {}, check=check, say=say)
    with scratch_folder() as scratch:
        moved, record = _equalized(parent, calibration_images(request, weights), scratch)
        if not record.exponents:
            say("equalizing moved no channel: the ranges are even already")
        facts = {"equalized": record}
        return _build(moved, weights, request, folder, facts, check=check, say=say)


def _build(
    parent: Artifact,
    weights: Weights,
    request: ExportRequest,
    folder: Path,
    facts: dict[str, Any],
    *,
    check: bool,
    say: Callable[[str], None],
) -> Built:
    of, precision = parent.manifest, _precision(parent, request)
    numerics = PRECISIONS[precision]
    proto = onnx_graph(parent)
    keep = () if request.keep_fp32 is None else request.kept(weights.config)
    if merges_first := precision != of.precision and numerics.wide_groups:
        proto, merged = _merged(proto, of, request)
        facts |= merged
    ranges = record = pixels = None
    if precision != of.precision and numerics.calibrated:
        images = calibration_images(request, weights)
        if merges_first:
            _say_skipped(proto, say)
        if request.calibration == "random":
            say("calibrating on noise: the file will be good for trying speed, not for use")
        method = request.calibration_method or "minmax"
        ranges, record = _calibrated(parent, images, method, request.scheme)
        # Compare on calibration images. Noise does not do: the network hardly tells two samples
        # apart.
        pixels = None if images.name.startswith("random") else _some(images)
    means = _means(parent, images) if ranges is not None and request.correct_bias else {}
    convert = partial(
        _converted,
        proto,
        numerics,
        scheme=request.scheme,
        native_io=request.io == "native",
        keep=keep,
        means=means,
    )
    # Meanwhile PyTorch computes the reference on another thread.
    with ThreadPoolExecutor(max_workers=1) as pool:
        awaited = (
            pool.submit(proof.expect, weights, of.batch, precision, pixels=pixels)
            if check
            else None
        )
        derived = proto
        if precision != of.precision:
            with working(f"converting to {precision}"):
                if numerics.lowered_to is not None:
                    half = keep if numerics.half else ()
                    probes = _probes(of, weights)
                    largest = _checked_ranges(parent, numerics.lowered_to, probes, half)
                    facts |= {"ranges": largest} if numerics.half else {}
                    facts |= {"kept": KeptRecord(layers=half)} if half else {}
                derived, left = convert(ranges)
                if record is not None and ranges is not None:
                    facts["quantization"] = record.model_copy(
                        update={
                            "left": left,
                            "ranges": applied_ranges(derived, ranges),
                            "means": _quantized(means, left) or None,
                        }
                    )
        if not merges_first:
            derived, merged = _merged(derived, of, request)
            facts |= merged
        expected = awaited.result() if awaited is not None else None
    if expected is not None and ranges is not None:
        with working("computing what this precision costs at best"):
            best = _at_best(convert, parent, ranges.method, expected)
            expected = replace(expected, baseline=best)
    facts |= _facts(derived, of, precision, request)
    written = {entry.key: entry.value for entry in derived.metadata_props}
    names = ("quantization", "merged", "ranges", "equalized", "kept")
    records = {name: facts.get(name) for name in names}
    onnx.helper.set_model_props(derived, written | record_facts(**records))
    write_onnx(derived, folder)

    def proven(artifact: Artifact) -> CheckRecord:
        assert expected is not None  # only called if there is a check
        return proof.prove(artifact, expected)

    return Built(FILE_NAME, facts, library_versions(), proven)


def _precision(parent: Artifact, request: ExportRequest) -> Precision:
    """Precision of the new artifact; refuses one that ``parent`` cannot be converted to."""
    of = parent.manifest
    precision = request.precision or of.precision
    # Naming the parent's own precision is fine together with groups to merge.
    if (
        of.precision != DEFAULT
        and request.precision is not None
        and (precision != of.precision or request.merge_groups is None)
    ):
        already = (
            "is quantized already" if of.quantization is not None else "is no float32 artifact"
        )
        raise BadInput(
            f"{parent.directory} {already} ({of.precision}); start from the float32 export"
        )
    if of.precision != DEFAULT and request.keep_fp32 is not None:
        raise UsageError(
            f"{parent.directory} is {of.precision} already, and `keep_fp32` says what is not to be:"
            " start from the float32 export, or drop it"
        )
    if of.quantization is not None and request.quantizing:
        raise UsageError(
            f"{parent.directory} is quantized already, and `{request.quantizing[0]}` says how to:"
            " start from the float32 export, or drop it"
        )
    return precision


def _converted(
    proto: onnx.ModelProto,
    numerics: Numerics,
    ranges: Ranges | None,
    *,
    scheme: Runtime,
    native_io: bool,
    keep: Collection[str],
    means: Mapping[str, float],
) -> tuple[onnx.ModelProto, tuple[tuple[str, str], ...]]:
    """``proto`` in another precision, and the layers that were not quantized, with reasons."""
    original = proto
    if numerics.lowered_to is not None:
        half = keep if numerics.half else ()
        lower = Lower(numerics.lowered_to, native_io=native_io, keep=half)
        proto = run_pass(lower, proto).proto
    if ranges is None:
        return proto, ()
    result = run_pass(
        QuantizeFp8(ranges, keep=keep)
        if numerics.wide_groups
        else QuantizeInt8(ranges, scheme, keep),
        proto,
    )
    requested = ((name, REQUESTED) for name in keep if name != "fc")
    left = (*result.skipped, *requested, ("fc", _CLASSIFIER))
    if not means:
        return result.proto, left
    corrected = run_pass(CorrectBias(original, _quantized(means, left)), result.proto)
    return corrected.proto, left


def _quantized(means: Mapping[str, float], left: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """``means`` of the layers that are not ``left``."""
    return {name: mean for name, mean in means.items() if name not in dict(left)}


def _means(parent: Artifact, images: ImageSource) -> dict[str, float]:
    """The mean of what each convolution reads, by its name."""
    source = Source.of_images(images, baked=parent.manifest.preprocessing_baked)
    read = {
        node.name: node.input[0] for node in onnx_graph(parent).graph.node if node.op_type == "Conv"
    }
    means = tensor_means(parent.path, source.batches(), list(dict.fromkeys(read.values())))
    return {name: means[tensor] for name, tensor in read.items()}


def _some(images: ImageSource) -> NDArray[np.uint8]:
    """A few images spread over the whole source: a folder lists them class by class."""
    chosen = np.unique(np.linspace(0, len(images) - 1, DIFFERENT).astype(int))
    return np.concatenate([images.pixels(int(index), int(index) + 1) for index in chosen])


def _calibrated(
    parent: Artifact, images: ImageSource, method: Method, scheme: Runtime
) -> tuple[Ranges, QuantizationRecord]:
    source = Source.of_images(images, baked=parent.manifest.preprocessing_baked)
    ranges = calibrate_or_reuse(parent.path, source, method)
    record = QuantizationRecord(
        runtime=scheme,
        method=ranges.method,
        source=images.name,
        source_sha256=images.digest,
        images=len(images),
    )
    return ranges, record


def _equalized(
    parent: Artifact, images: ImageSource, scratch: Path
) -> tuple[Artifact, EqualizationRecord]:
    """``parent`` with even ranges, in ``scratch``, and what was moved."""
    proto = onnx_graph(parent)
    source = Source.of_images(images, baked=parent.manifest.preprocessing_baked)
    tensors = [chain.tensor for chain in chains(proto.graph)]
    exponents = chosen_exponents(proto, channel_maxima(parent.path, source.batches(), tensors))
    data = run_pass(Equalize(exponents), proto).proto.SerializeToString()
    (scratch / parent.manifest.file).write_bytes(data)
    facts = {"file_sha256": hashlib.sha256(data).hexdigest(), "file_size_bytes": len(data)}
    moved = Artifact(scratch, parent.manifest.model_copy(update=facts))
    recorded = {
        name: {channel: each for channel, each in enumerate(whole) if each}
        for name, whole in exponents.items()
    }
    return moved, EqualizationRecord(exponents=recorded)


def _checked_ranges(
    parent: Artifact, half: HalfPrecision, images: NDArray[Any], keep: Collection[str]
) -> RangeRecord:
    """The largest activation; raises GateFailed if the type cannot hold it."""
    # What an island computes in float32 need not fit; what leaves it again, the check will see.
    graph = onnx_graph(parent).graph
    outputs = kept_nodes(graph, keep)
    kept = {node.name for node in graph.node if tuple(node.output) in outputs}
    ranges = [each for each in activation_ranges(parent.path, images) if each.node not in kept]
    if beyond := [each for each in overflows(ranges, half, headroom=1.0) if each.beyond]:
        more = f" ({len(beyond)} layers are)" if len(beyond) > 1 else ""
        blocks = ",".join(dict.fromkeys(block_of(each.node) for each in beyond))
        hint = f"or keep what exceeds it in float32 with `keep_fp32` {blocks}"
        raise GateFailed(
            f"{beyond[0]}{more}. Nothing was written", hint="" if parent.manifest.foreign else hint
        )
    widest = max(ranges, key=lambda each: each.largest)
    return RangeRecord(
        layer=widest.node,
        largest=widest.largest,
        limit=PRECISIONS[half].largest,
        images=len(images),
    )


def _probes(of: Manifest, weights: Weights) -> NDArray[Any]:
    """Seeded images, preprocessed unless the graph does that."""
    pixels = seeded_pixels(weights.config, max(CHECK_BATCHES))
    return pixels if of.preprocessing_baked else weights.preprocessing.normalize(pixels)


def _at_best(
    convert: Callable[[Ranges], tuple[onnx.ModelProto, Any]],
    parent: Artifact,
    method: Method,
    expected: Expected,
) -> NDArray[np.float64]:
    """Logits of the same scheme, calibrated on the compared images: the best that it can do."""
    images: NDArray[Any] = (
        expected.pixels if parent.manifest.preprocessing_baked else expected.images
    )
    fixed = parent.manifest.inputs[0].shape[0] or 1
    whole = images[np.arange(-(-len(images) // fixed) * fixed) % len(images)]
    source = Source.of("the compared images", whole)
    ranges = calibrate(
        parent.path, source.batches(), method, source=source.name, source_sha256=source.sha256
    )
    proto, _ = convert(ranges)
    return node_by_node(proto, images).astype(np.float64)


def _merged(
    proto: onnx.ModelProto, of: Manifest, request: ExportRequest
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """``proto`` with merged groups and the manifest's record of that, if ``request`` names any."""
    if request.merge_groups is None:
        return proto, {}
    facts: dict[str, Any] = {}
    if request.merge_groups == "auto":
        assert request.scheme in ("ort", "openvino")  # as a request is checked
        batch = of.batch.opt if request.batch is None else request.profiles()[0].opt
        choice = fastest_merge(proto, request.scheme, batch)
        same = prove_merge(proto, choice.proto)
        merged, changed, max_error = choice.proto, same.convs, same.max_error
        facts = {
            "runtime": request.scheme,
            "batch": batch,
            "speedup": round(choice.speedup, 3),
        }
    else:
        merged, changed, max_error = _widened(proto, request)
    groups = {
        node.name: next(attribute.i for attribute in node.attribute if attribute.name == "group")
        for node in merged.graph.node
        if node.op_type == "Conv" and node.name in changed
    }
    return merged, {"merged": MergeRecord(groups=groups, max_error=max_error, **facts)}


def _widened(
    proto: onnx.ModelProto, request: ExportRequest
) -> tuple[onnx.ModelProto, tuple[str, ...], float]:
    """``proto`` with groups of at least the requested widths, the changed convolutions, and the
    largest error of the proof.
    """
    if isinstance(request.merge_groups, int):
        merged, changed, _, max_error = run_pass(MergeGroups(request.merge_groups), proto)
        if changed:
            return merged, changed, max_error
        raise UsageError(
            f"no convolution has groups of fewer than {request.merge_groups} channels: nothing to"
            " merge"
        )
    stages, merged = stages_of(proto), proto
    for stage, width in request.stage_widths().items():
        if stage not in stages:
            raise UnknownName("stage with groups", stage, stages)
        merged, changed, *_ = MergeGroups(width, stages[stage]).apply(merged)
        if not changed:
            raise UsageError(
                f"no convolution of {stage} has groups of fewer than {width} channels: nothing to"
                " merge"
            )
    same = prove_merge(proto, merged)
    return merged, same.convs, same.max_error


def _say_skipped(proto: onnx.ModelProto, say: Callable[[str], None]) -> None:
    """Say which convolutions will not be float8, before the work begins."""
    skipped = skipped_by_fp8(proto)
    count = sum(node.op_type == "Conv" for node in proto.graph.node)
    reasons = ", ".join(counted(reason for _, reason in skipped))
    more = "; `merge_groups` 32 widens groups" if "a group" in reasons else ""
    quantized = count - len(skipped)
    say(f"fp8: {quantized} of {count} convolutions; left in fp16: {reasons or 'none'}{more}")


def _facts(
    proto: onnx.ModelProto, of: Manifest, precision: Precision, request: ExportRequest
) -> dict[str, Any]:
    native = PRECISIONS[precision].weight_dtype if request.io == "native" else "float32"

    def typed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            spec.model_copy(update={"dtype": native}) if spec.dtype == "float32" else spec
            for spec in specs
        )

    return {
        "precision": precision,
        "inputs": typed(of.inputs),
        "outputs": typed(of.outputs),
        "opset": next(e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")),
    }
