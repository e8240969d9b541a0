"""From an ONNX artifact to a checked one of another precision, or with merged groups."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import (
    CheckRecord,
    Manifest,
    MergeRecord,
    QuantizationRecord,
    RangeRecord,
)
from resnext.errors import BadInput, GateFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.precision import HALVES, PRECISIONS, QUANTIZED, Precision
from resnext.progress import working
from resnext.runtimes.onnx_reference.evaluator import node_by_node
from resnext_export import proof
from resnext_export.calibration.activations import activation_ranges, overflows
from resnext_export.calibration.collect import calibrate
from resnext_export.calibration.images import Source
from resnext_export.calibration.reuse import calibrate_or_reuse
from resnext_export.calibration_images import calibration_images
from resnext_export.derivation import counted
from resnext_export.passes.base import run_pass
from resnext_export.passes.lower import Lower
from resnext_export.passes.merge_groups import MergeGroups
from resnext_export.passes.merge_proof import prove_merge
from resnext_export.passes.quantize_fp8 import QuantizeFp8, skipped_by_fp8
from resnext_export.passes.quantize_int8 import QuantizeInt8
from resnext_export.proof import CHECK_BATCHES, DIFFERENT, Expected
from resnext_export.publish import Built, library_versions
from resnext_export.request import ExportRequest
from resnext_export.tuning.merge_width import fastest_merge

from .onnx_file import FILE_NAME, write_onnx

if TYPE_CHECKING:
    from resnext.images.sources import ImageSource
    from resnext.weights.spec import Weights
    from resnext_export.calibration.ranges import Ranges
    from resnext_export.options import Method, Runtime
    from resnext_export.passes.lower import HalfPrecision

_Calibrated: TypeAlias = "tuple[Ranges, QuantizationRecord]"
#: Why the classifier is never quantized.
_CLASSIFIER = "the classifier: next to none of the work, and nothing behind it evens rounding out"


@dataclass(frozen=True)
class _Derived:
    """A graph between two passes.

    Attributes:
        proto: the graph.
        facts: manifest fields that differ from the parent's.
    """

    proto: onnx.ModelProto
    facts: dict[str, Any]


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
    precision = _precision(parent, request)
    of = parent.manifest
    graph = _Derived(onnx.load(parent.path), {})
    if precision == "fp8" != of.precision:  # fp8 needs wide groups, so it merges first
        graph = _merged(graph, of, request)
    calibrated = pixels = None
    if precision != of.precision and precision in QUANTIZED:
        images = calibration_images(request, weights)
        if precision == "fp8":
            _say_left(graph.proto, say)
        if request.calibration == "random":
            say("calibrating on noise: the file will be good for trying speed, not for use")
        calibrated = _calibrated(
            parent, request.scheme, images, request.calibration_method or "minmax"
        )
        # Compare on calibration images. Noise does not do: the network hardly tells two samples
        # apart.
        pixels = None if images.name.startswith("random") else _some(images)
    # Meanwhile PyTorch computes the reference on another thread.
    with ThreadPoolExecutor(max_workers=1) as pool:
        awaited = (
            pool.submit(proof.expect, weights, of.batch, precision, pixels=pixels)
            if check
            else None
        )
        derived = _derive(graph, parent, request, precision, calibrated, _probes(of, weights))
        expected = awaited.result() if awaited is not None else None
    if expected is not None and calibrated is not None:
        with working("computing what this precision costs at best"):
            expected = replace(
                expected,
                baseline=_at_best(
                    graph.proto, parent, request, precision, calibrated[1].method, expected
                ),
            )
    facts = _facts(derived, of, precision, request)
    write_onnx(derived.proto, folder)

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
        of.precision != "fp32"
        and request.precision is not None
        and (precision != of.precision or request.merge_groups is None)
    ):
        already = (
            "is quantized already" if of.quantization is not None else "is no float32 artifact"
        )
        raise BadInput(
            f"{parent.directory} {already} ({of.precision}); start from the float32 export"
        )
    return precision


def _derive(
    graph: _Derived,
    parent: Artifact,
    request: ExportRequest,
    precision: Precision,
    calibrated: _Calibrated | None,
    probes: NDArray[Any],
) -> _Derived:
    if precision == parent.manifest.precision:
        return _merged(graph, parent.manifest, request)
    if precision in (*HALVES, "fp8"):
        half = cast("HalfPrecision", "fp16" if precision == "fp8" else precision)
        with working(f"converting to {precision}"):
            record = _checked_ranges(parent, half, probes)
            graph = _lowered(graph, half, request, None if precision == "fp8" else record)
    if calibrated is not None:
        ranges, record_of = calibrated
        with working(f"quantizing to {precision}"):
            proto, left = _quantized(graph.proto, ranges, precision, request)
        graph = _Derived(
            proto, graph.facts | {"quantization": record_of.model_copy(update={"left": left})}
        )
    return graph if precision == "fp8" else _merged(graph, parent.manifest, request)


def _some(images: ImageSource) -> NDArray[np.uint8]:
    """A few images spread over the whole source: a folder lists them class by class."""
    chosen = np.unique(np.linspace(0, len(images) - 1, DIFFERENT).astype(int))
    return np.concatenate([images.pixels(int(index), int(index) + 1) for index in chosen])


def _calibrated(
    parent: Artifact, runtime: Runtime, images: ImageSource, method: Method
) -> _Calibrated:
    source = Source.of_images(images, baked=parent.manifest.preprocessing_baked)
    ranges = calibrate_or_reuse(parent.path, source, method)
    record = QuantizationRecord(
        runtime=runtime,
        method=method,
        source=images.name,
        source_sha256=images.digest,
        images=len(images),
    )
    return ranges, record


def _quantized(
    proto: onnx.ModelProto, ranges: Ranges, precision: Precision, request: ExportRequest
) -> tuple[onnx.ModelProto, tuple[tuple[str, str], ...]]:
    if precision == "fp8":
        quantized, _, left, _ = run_pass(QuantizeFp8(ranges), proto)
        return quantized, (*left, ("fc", _CLASSIFIER))
    return run_pass(QuantizeInt8(ranges, request.scheme), proto).proto, (("fc", _CLASSIFIER),)


def _lowered(
    graph: _Derived, half: HalfPrecision, request: ExportRequest, record: RangeRecord | None
) -> _Derived:
    proto = run_pass(Lower(half, native_io=request.io == "native"), graph.proto).proto
    return _Derived(proto, graph.facts | ({} if record is None else {"ranges": record}))


def _checked_ranges(parent: Artifact, half: HalfPrecision, images: NDArray[Any]) -> RangeRecord:
    """The largest activation; raises GateFailed if the type cannot hold it."""
    found = activation_ranges(parent.path, images)
    if beyond := [each for each in overflows(found, half, headroom=1.0) if each.beyond]:
        more = f" ({len(beyond)} layers are)" if len(beyond) > 1 else ""
        raise GateFailed(f"{beyond[0]}{more}. Nothing was written")
    widest = max(found, key=lambda each: each.largest)
    return RangeRecord(
        layer=widest.node,
        largest=widest.largest,
        limit=PRECISIONS[half].largest,
        images=len(images),
    )


def _probes(of: Manifest, weights: Weights) -> NDArray[Any]:
    """Seeded images, preprocessed unless the graph does that."""
    pixels = seeded_pixels(weights.config, max(CHECK_BATCHES))
    return pixels if of.preprocessing_baked else weights.preprocessing.normalise(pixels)


def _at_best(
    proto: onnx.ModelProto,
    parent: Artifact,
    request: ExportRequest,
    precision: Precision,
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
    if precision == "fp8":
        proto = _lowered(_Derived(proto, {}), "fp16", request, None).proto
    proto, _ = _quantized(proto, ranges, precision, request)
    return node_by_node(proto, images).astype(np.float64)


def _merged(graph: _Derived, of: Manifest, request: ExportRequest) -> _Derived:
    """``graph`` with merged groups, if ``request`` names any."""
    facts: dict[str, Any] = {}
    if request.merge_groups is None:
        return graph
    if request.merge_groups == "auto":
        assert request.scheme != "trt"  # as a request is checked
        batch = of.batch.opt if request.batch is None else request.profiles()[0].opt
        choice = fastest_merge(graph.proto, request.scheme, batch)
        merged, proof = choice.proto, prove_merge(graph.proto, choice.proto)
        changed, max_error = proof.convs, proof.max_error
        facts = {
            "runtime": request.scheme,
            "batch": batch,
            "speedup": round(choice.speedup, 3),
        }
    else:
        merged, changed, _, max_error = run_pass(MergeGroups(request.merge_groups), graph.proto)
        if not changed:
            raise UsageError(
                f"no convolution has groups of fewer than {request.merge_groups} channels: nothing"
                " to merge"
            )
    groups = {
        node.name: next(attribute.i for attribute in node.attribute if attribute.name == "group")
        for node in merged.graph.node
        if node.op_type == "Conv" and node.name in changed
    }
    return _Derived(
        merged,
        graph.facts | {"merged": MergeRecord(groups=groups, max_error=max_error, **facts)},
    )


def _say_left(proto: onnx.ModelProto, say: Callable[[str], None]) -> None:
    """Say which convolutions will not be float8, before the work begins."""
    left = skipped_by_fp8(proto)
    count = sum(node.op_type == "Conv" for node in proto.graph.node)
    told = ", ".join(counted(reason for _, reason in left))
    more = "; `merge_groups` 32 widens groups" if "a group" in told else ""
    say(f"fp8: {count - len(left)} of {count} convolutions; left in fp16: {told or 'none'}{more}")


def _facts(
    derived: _Derived, of: Manifest, precision: Precision, request: ExportRequest
) -> dict[str, Any]:
    native = (
        {"fp16": "float16", "bf16": "bfloat16"}.get(precision) if request.io == "native" else None
    )

    def sized(specs: tuple[Any, ...]) -> tuple[Any, ...]:
        if native is None:
            return specs
        return tuple(
            s.model_copy(update={"dtype": native}) if s.dtype == "float32" else s for s in specs
        )

    return {
        "precision": precision,
        "inputs": sized(of.inputs),
        "outputs": sized(of.outputs),
        "opset": next(e.version for e in derived.proto.opset_import if e.domain in ("", "ai.onnx")),
        **derived.facts,
    }
