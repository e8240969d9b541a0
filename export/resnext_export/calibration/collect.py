"""Calibration: the range of every tensor of an ONNX graph over some images, from which every
runtime's scales follow.

ONNX Runtime's calibrators do the counting. They are fed a few images at a time, because those that
make histograms hold every activation of what they are fed; and they are watched, because they pass
over NaN in silence.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from resnext.artifact.manifest import Sha256
from resnext.errors import BadArtifact, BadInput, MissingRequirement, UsageError, first_line
from resnext.progress import track
from resnext.storage import cache_folder, locked, write_whole
from resnext_export.recipe import Method as Method

if TYPE_CHECKING:
    from resnext.images.sources import ImageSource

FORMAT_VERSION = 1
#: Share of a tensor's values, in percent, that ``percentile`` keeps.
PERCENTILE = 99.99
#: Bins at first; they grow with the values, and entropy's search takes their square. ONNX Runtime's
#: own default for entropy, 128, leaves it one candidate: the whole range.
_BINS = {"entropy": 512, "percentile": 4096}
#: A histogram grows by as many bins as its values outgrow the first images'.
_MOST_GROWTH = 16.0
#: Values of the input that are run at a time: six images of 3 x 224 x 224, whose activations take
#: 0.7 GB.
_CHUNK_VALUES = 2**20
_READ_IMAGES = 32
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_WATCH = "resnext.watch."
_SHA256 = re.compile("[0-9a-f]{64}")


class Ranges(BaseModel):
    """What calibration found: the range of each floating-point tensor that a node reads or gives.

    Attributes:
        format_version: of this file; readers refuse any other.
        onnx_sha256: digest of the ONNX file that was run.
        weights_sha256: digest of its weights, from its metadata (``resnext.weights_sha256``), or
            None.
        method: how outliers were judged.
        source: name of the images, for people.
        source_sha256: digest of the images.
        images: how many.
        onnxruntime: version of the calibrators.
        ranges: (low, high) by tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    format_version: Literal[1] = 1
    onnx_sha256: Sha256
    weights_sha256: Sha256 | None
    method: Method
    source: str
    source_sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    onnxruntime: str
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @field_validator("ranges")
    @classmethod
    def _in_order(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if wrong := [name for name, (low, high) in ranges.items() if low > high]:
            raise ValueError(f"{wrong[0]!r} has its low end above its high end")
        return ranges

    @property
    def degenerate(self) -> tuple[str, ...]:
        """Tensors that were zero throughout. Allowed, as a dead layer is; but ask whether the
        images were real.
        """
        return tuple(name for name, (low, high) in self.ranges.items() if low == high == 0)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            MissingRequirement: it cannot be written.
        """
        try:
            write_whole(path, f"{self.model_dump_json(indent=1)}\n".encode())
        except OSError as exc:
            raise MissingRequirement(
                f"cannot write {path}: {exc.strerror or exc}; choose another place"
            ) from exc


def read_ranges(path: Path) -> Ranges:
    """Read and check a file that `Ranges.write` wrote.

    Raises:
        BadArtifact: missing, not JSON, of another format version, or not as it should be.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except OSError as exc:
        raise BadArtifact(f"cannot read the calibration {path}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadArtifact(f"{path} is not JSON: {exc}; calibrate again") from exc
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != FORMAT_VERSION:
        raise BadArtifact(
            f"{path} has format_version {found!r}, this version reads {FORMAT_VERSION}; calibrate"
            " again or use the toolkit that wrote it"
        )
    try:
        return Ranges.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "calibration"
        raise BadArtifact(f"{path} is not valid: {where}: {first['msg']}; calibrate again") from exc


@dataclass(frozen=True)
class Source:
    """Images to calibrate with.

    Attributes:
        name: for people.
        sha256: digest of the images, in order.
        images: how many.
        batches: opens them; batches as the graph's input takes them, of any sizes.
    """

    name: str
    sha256: str
    images: int
    batches: Callable[[], Iterable[NDArray[Any]]]

    @classmethod
    def of(cls, name: str, images: NDArray[Any]) -> Source:
        """``images`` that are in memory already, N x C x H x W."""
        digest = hashlib.sha256(f"{images.dtype.str} {images.shape} ".encode())
        digest.update(np.ascontiguousarray(images).data)
        return cls(name, digest.hexdigest(), len(images), lambda: (images,))

    @classmethod
    def of_images(cls, images: ImageSource, *, baked: bool = False) -> Source:
        """``images``, read and normalised while they are used; as plain pixels for a graph that
        normalises them.
        """

        def batches() -> Iterator[NDArray[Any]]:
            for start in range(0, len(images), _READ_IMAGES):
                pixels = images.pixels(start, min(start + _READ_IMAGES, len(images)))
                yield pixels if baked else images.preprocessing.normalise(pixels)

        return cls(images.name, images.digest, len(images), batches)


def calibrate_or_reuse(
    model_path: Path, source: Source, method: Method, folder: Path | None = None
) -> Ranges:
    """The ranges of ``model_path`` over ``source``, calibrated now if no earlier run left them.

    Safe for several processes: the first calibrates, the others wait and reuse. A damaged entry is
        made again.

    Args:
        model_path: the ONNX file.
        source: the images, opened only if they are needed.
        method: how to judge outliers.
        folder: of the cache; None means `cache_folder`.

    Raises:
        MissingRequirement: the cache folder cannot be written to.
        BadInput: as `calibrate`, or ``source`` gives another number of images than it says.
    """
    key = {
        "format": FORMAT_VERSION,
        "onnx": _digest(_read(model_path)),
        "source": source.sha256,
        "images": source.images,
        "method": [method, PERCENTILE, _BINS.get(method), _CHUNK_VALUES],
        "onnxruntime": _onnxruntime_version(),
    }
    folder = (folder or cache_folder()) / "calibration"
    entry = folder / f"{_digest(json.dumps(key, sort_keys=True).encode())[:24]}.json"
    with locked(entry.with_suffix(".lock")):
        try:
            kept = read_ranges(entry)
            if kept.ranges.keys() >= float_tensors(_parsed(_read(model_path), model_path)).keys():
                return kept
        except BadArtifact:  # absent, or damaged since
            pass
        ranges = calibrate(
            model_path, source.batches(), method, source=source.name, source_sha256=source.sha256
        )
        if ranges.images != source.images:
            raise BadInput(
                f"{source.name} gave {ranges.images} images and was said to hold {source.images}"
            )
        ranges.write(entry)
        return ranges


def calibrate(
    model_path: Path,
    images: Iterable[NDArray[Any]],
    method: Method = "minmax",
    *,
    source: str,
    source_sha256: str,
) -> Ranges:
    """Run ``images`` through the graph, in float32 on ONNX Runtime's CPU provider, and note what
    each tensor holds.

    The outcome depends on the images and their order, not on the sizes of the batches that they
    come in.

    Args:
        model_path: an ONNX file with its weights inside and one input.
        images: batches as the input takes them: for an export without preprocessing float32, N x C
            x H x W.
        method: ``minmax`` keeps every value; ``percentile`` leaves out the rarest 0.01 %, half at
            each end; ``entropy`` cuts where the histogram loses least by it (Kullback-Leibler;
            Migacz, GTC 2017).
        source: name of the images, to be noted.
        source_sha256: digest of the images, to be noted.

    Raises:
        BadInput: no images, or of another shape or type than the input; a graph that is not
            readable or is quantized already; NaN or infinity in images or activations; activations
            that outgrow the first images' 16 times, where ``method`` counts in histograms.
        UsageError: an unknown method, or ``source_sha256`` is no digest.
        MissingRequirement: the temporary folder, which takes two copies of the model, cannot be
            written to.
    """
    if method not in get_args(Method):
        raise UsageError(
            f"unknown calibration method {method!r}; known: {', '.join(get_args(Method))}"
        )
    if not _SHA256.fullmatch(source_sha256):
        raise UsageError(f"source_sha256 must be 64 hexadecimal digits, got {source_sha256!r}")
    data = _read(model_path)
    proto = _parsed(data, model_path)
    weights = {prop.key: prop.value for prop in proto.metadata_props}.get(
        "resnext.weights_sha256", ""
    )
    graph_input = proto.graph.input[0]
    seen = 0
    with TemporaryDirectory(prefix="resnext-calibration-") as scratch:
        calibrator, session = _calibrator(proto, method, Path(scratch), model_path)
        for chunk in track(_chunks(images, graph_input, model_path), f"calibrating ({method})"):
            session.first, seen = seen, seen + len(chunk)
            with redirect_stdout(io.StringIO()):  # it prints, and stdout is for results
                calibrator.collect_data(_Once({graph_input.name: chunk}))
        if not seen:
            raise BadInput(f"no images to calibrate {model_path} with: {source} is empty")
        with redirect_stdout(io.StringIO()):
            found = calibrator.compute_data()
    ends = {
        name: map(float, map(np.squeeze, found[name].range_value))
        for name in float_tensors(proto)
        if name in found
    }
    return Ranges(
        onnx_sha256=_digest(data),
        weights_sha256=weights if _SHA256.fullmatch(weights) else None,
        method=method,
        source=source,
        source_sha256=source_sha256,
        images=seen,
        onnxruntime=_onnxruntime_version(),
        # A histogram's high end is the lower edge of a bin, which for a constant is below the
        # constant.
        ranges={name: (low, max(low, high)) for name, (low, high) in ends.items()},
    )


def refuse_quantized(proto: onnx.ModelProto, what: str) -> None:
    """Raise BadInput where ``proto``, called ``what`` in the message, is quantized already."""
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith(
            "QLinear"
        ):
            raise BadInput(
                f"{what} is quantized already ({node.op_type} {node.name or node.output[0]!r}); "
                "start from the export in float32 or float16"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(f"cannot read the ONNX file {path}: {exc.strerror or exc}") from exc


def _parsed(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load_from_string(data)
        onnx.checker.check_model(proto)
    except Exception as exc:  # protobuf has many names for it
        raise BadInput(
            f"{path} is not an ONNX file with its weights inside: {first_line(exc)}"
        ) from exc
    refuse_quantized(proto, str(path))
    if len(proto.graph.input) != 1:
        raise BadInput(
            f"{path} has {len(proto.graph.input)} inputs; a graph with one can be calibrated"
        )
    return proto


def float_tensors(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of the floating-point tensors that nodes read or give, without constants, in
    graph order.
    """
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    constants = {tensor.name for tensor in proto.graph.initializer}
    names = dict.fromkeys(name for node in proto.graph.node for name in (*node.input, *node.output))
    return {
        name: kinds[name] for name in names if kinds.get(name) in _FLOATS and name not in constants
    }


def _calibrator(
    proto: onnx.ModelProto, method: Method, scratch: Path, path: Path
) -> tuple[Any, _Watched]:
    """A calibrator of ONNX Runtime, and its session; ``scratch`` must live as long as they."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    graph = watched.graph
    # ReduceMin and ReduceMax pass over NaN, as nanmin does; a sum of absolute values is as finite
    # as they are.
    tensors = float_tensors(proto)
    for name, kind in tensors.items():
        if kind == TensorProto.FLOAT16:  # whose sum would overflow
            graph.node.append(
                helper.make_node("Cast", [name], [f"{_WATCH}wide.{name}"], to=TensorProto.FLOAT)
            )
        wide = f"{_WATCH}wide.{name}" if kind == TensorProto.FLOAT16 else name
        graph.node.append(helper.make_node("ReduceL1", [wide], [_WATCH + name], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(_WATCH + name, TensorProto.FLOAT, []))
    # The calibrators write beside the file that they read: a folder of their own, not the
    # artifact's.
    file = scratch / "model.onnx"
    try:
        file.write_bytes(watched.SerializeToString())
        calibrator = create_calibrator(
            file,
            sorted({node.op_type for node in proto.graph.node} - {"Cast", "ReduceL1"}),
            augmented_model_path=str(scratch / "augmented.onnx"),
            calibrate_method=CalibrationMethod[
                {"minmax": "MinMax"}.get(method, method.capitalize())
            ],
            extra_options={
                "symmetric": False,
                "num_bins": _BINS.get(method),
                "percentile": PERCENTILE,
            },
        )
    except OSError as exc:
        raise MissingRequirement(
            f"no room to work in {scratch}: {exc.strerror or exc}; set TMPDIR"
        ) from exc
    except Exception as exc:  # onnxruntime's errors have no common base of their own
        raise BadInput(f"ONNX Runtime does not open {path}: {first_line(exc)}") from exc
    makers = {
        name: f"{node.op_type} {node.name!r}" for node in proto.graph.node for name in node.output
    }
    session = _Watched(
        calibrator.infer_session, {name: makers.get(name, "the input") for name in tensors}, method
    )
    calibrator.infer_session = session
    return calibrator, session


class _Watched:
    """What a calibrator uses of a session, with a look at every tensor before the calibrator sees
    it.

    Attributes:
        first: number of the next run's first image.
    """

    def __init__(self, session: Any, makers: dict[str, str], method: Method) -> None:
        self.first = 0
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._session, self._makers, self._method = session, makers, method
        self._names = [output.name for output in session.get_outputs()]
        self._largest: dict[str, float] = {}

    def run(self, _names: None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Every output of the graph; those in float16 as float32, whose histograms NumPy counts
        better.
        """
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, inputs)
        except Exception as exc:
            raise BadInput(
                f"ONNX Runtime fails on image {self.first} or one soon after: {first_line(exc)}"
            ) from exc
        given = dict(zip(self._names, outputs, strict=True))
        for name, maker in self._makers.items():
            if not np.isfinite(given[_WATCH + name]):
                last = self.first + len(next(iter(inputs.values()))) - 1
                raise BadInput(
                    f"tensor {name!r}, given by {maker}, is NaN or infinite for one of the images"
                    f" {self.first} to {last}; check the images and the weights"
                )
            if self._method in _BINS and name in given:
                self._check_growth(name, given[name])
        return [
            output.astype(np.float32) if output.dtype == np.float16 else output
            for output in outputs
        ]

    def _check_growth(self, name: str, values: NDArray[Any]) -> None:
        largest = max(abs(float(values.min())), abs(float(values.max())))
        least = self._largest.setdefault(name, largest)
        if least == 0:
            self._largest[name] = largest
        elif largest > _MOST_GROWTH * least:
            raise BadInput(
                f"tensor {name!r}, given by {self._makers[name]}, grows to {largest:.3g} at image"
                f" {self.first} or soon after, from {least:.3g}: too far for a histogram; shuffle"
                " the images, or calibrate with minmax"
            )


class _Once:
    """A reader of one batch, as the calibrators want it."""

    def __init__(self, inputs: dict[str, NDArray[Any]]) -> None:
        self._left: list[dict[str, NDArray[Any]]] = [inputs]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The batch, then None."""
        return self._left.pop() if self._left else None


def _chunks(
    images: Iterable[NDArray[Any]], graph_input: onnx.ValueInfoProto, path: Path
) -> Iterator[NDArray[Any]]:
    """The same images in batches of one size, but for the last."""
    kind = helper.tensor_dtype_to_np_dtype(graph_input.type.tensor_type.elem_type)
    batch, *shape = (dim.dim_value or None for dim in graph_input.type.tensor_type.shape.dim)
    left: NDArray[Any] | None = None
    for given in images:
        fits = given.ndim == len(shape) + 1 and all(
            want in (None, got) for want, got in zip(shape, given.shape[1:], strict=True)
        )
        if given.dtype != kind or not fits:
            wanted = " x ".join(["N", *(str(size or "any") for size in shape)])
            raise BadInput(
                f"{path} takes {kind} images of shape {wanted}; got {given.dtype} of shape"
                f" {given.shape}"
            )
        left = given if left is None else np.concatenate([left, given])
        size = batch or int(np.clip(_CHUNK_VALUES // max(1, int(np.prod(given.shape[1:]))), 1, 64))
        while len(left) >= size:
            yield left[:size]
            left = left[size:]
    if left is not None and len(left):
        if batch is not None:
            raise BadInput(
                f"{path} takes batches of {batch}, and {len(left)} images are left over; give a"
                " multiple"
            )
        yield left


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
