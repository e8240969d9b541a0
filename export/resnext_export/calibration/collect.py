"""Calibration: the range of every tensor of an ONNX graph over some images.

ONNX Runtime's calibrators do the counting. They get a few images at a time, because those that make
histograms keep every activation of a batch in memory, and every tensor is checked, because they
skip NaN silently (`watch`).
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, create_calibrator

from resnext.errors import BadInput, MissingRequirement, UsageError, first_line
from resnext.machine.faults import environment_fault
from resnext.progress import track
from resnext.readers.files import MOST_ONNX, read_file
from resnext.readers.graphs import parse_onnx
from resnext.storage import others_scratch_folder, scratch_folder
from resnext_export.passes.graph import float_tensors, refuse_quantized

from .images import equal_batches
from .ranges import Method, Ranges
from .watch import WatchedSession, with_sums

#: Percentage of a tensor's values that ``percentile`` keeps.
PERCENTILE = 99.999
#: Its initial number of bins, which grows with the values.
BINS = 4096
_METHODS: Mapping[Method, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
}
_SHA256 = re.compile("[0-9a-f]{64}")


def calibrate(
    model_path: Path,
    images: Iterable[NDArray[Any]],
    method: Method = "minmax",
    *,
    source: str,
    source_sha256: str,
) -> Ranges:
    """Run ``images`` through the graph in float32 on ONNX Runtime's CPU provider, and collect the
    range of each tensor.

    The outcome depends on the images and their order, not on how they are batched.

    Args:
        model_path: an ONNX file with weights inside and one input.
        images: batches as the input takes them: float32, N x C x H x W, for an export without
            preprocessing.
        method: ``minmax`` keeps every value; ``percentile`` drops the rarest 0.001 %, half at each
            end.
        source: name of the images, stored in the outcome.
        source_sha256: digest of the images, stored in the outcome.

    Raises:
        BadInput: no images, or of another shape or dtype than the input; a graph that is unreadable
            or already quantized; NaN or infinity in images or activations; for ``percentile``,
            activations more than 16 times those of the first images.
        UsageError: an unknown method, or ``source_sha256`` is not a digest.
        MissingRequirement: the temporary folder, which takes two copies of the model, is not
            writable.
    """
    if method not in get_args(Method):
        raise UsageError(
            f"unknown calibration method {method!r}; known: {', '.join(get_args(Method))}"
        )
    if not _SHA256.fullmatch(source_sha256):
        raise UsageError(f"`source_sha256` must be 64 hexadecimal digits, got {source_sha256!r}")
    data, proto = read_graph(model_path)
    metadata = {prop.key: prop.value for prop in proto.metadata_props}
    weights_sha256 = metadata.get("resnext.weights_sha256", "")
    graph_input = proto.graph.input[0]
    count = 0
    with scratch_folder() as scratch:
        calibrator, session = _calibrator(proto, method, scratch, model_path)
        batches = equal_batches(images, graph_input, model_path)
        for batch in track(batches, f"calibrating ({method})"):
            session.first, count = count, count + len(batch)
            with redirect_stdout(io.StringIO()):  # it prints, and stdout is for results
                calibrator.collect_data(_Once({graph_input.name: batch}))
        if not count:
            raise BadInput(f"no images to calibrate {model_path} with: {source} is empty")
        with redirect_stdout(io.StringIO()):
            collected = calibrator.compute_data()
    ends = {
        name: map(float, map(np.squeeze, collected[name].range_value))
        for name in float_tensors(proto)
        if name in collected
    }
    return Ranges(
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        weights_sha256=weights_sha256 if _SHA256.fullmatch(weights_sha256) else None,
        method=method,
        source=source,
        source_sha256=source_sha256,
        images=count,
        onnxruntime=str(onnxruntime.__version__),
        # A histogram's high end is the lower edge of a bin: for a constant, less than the constant.
        ranges={name: (low, max(low, high)) for name, (low, high) in ends.items()},
    )


def read_graph(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """The bytes of an ONNX file, and the graph in them.

    Raises:
        BadInput: it cannot be read, is not ONNX with weights inside, is already quantized, or has
            more or less than one input.
    """
    data = read_file(path, MOST_ONNX)
    try:
        proto = parse_onnx(data)
        onnx.checker.check_model(proto)
    except Exception as exc:  # protobuf raises many kinds
        raise BadInput(
            f"{path} is not an ONNX file with its weights inside: {first_line(exc)}"
        ) from exc
    refuse_quantized(proto, str(path))
    if len(proto.graph.input) != 1:
        raise BadInput(
            f"{path} has {len(proto.graph.input)} inputs; only a graph with one can be calibrated"
        )
    return data, proto


def _calibrator(
    proto: onnx.ModelProto, method: Method, scratch: Path, path: Path
) -> tuple[Any, WatchedSession]:
    """One of ONNX Runtime's calibrators, and its session; both need ``scratch`` as they live."""
    # Calibrators write beside the file that they read: into a scratch folder, not the artifact's.
    file = scratch / "model.onnx"
    with others_scratch_folder(), _translated(scratch, path):
        file.write_bytes(with_sums(proto).SerializeToString())
        calibrator = create_calibrator(
            file,
            sorted({node.op_type for node in proto.graph.node} - {"Cast", "ReduceL1"}),
            augmented_model_path=str(scratch / "augmented.onnx"),
            calibrate_method=_METHODS[method],
            extra_options={"symmetric": False, "num_bins": BINS, "percentile": PERCENTILE},
        )
    histograms = method == "percentile"
    session = WatchedSession(calibrator.infer_session, proto, histograms=histograms)
    calibrator.infer_session = session
    return calibrator, session


@contextmanager
def _translated(scratch: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise MissingRequirement(
            f"no room to work in {scratch}: {exc.strerror or exc}", hint="set TMPDIR"
        ) from exc
    except Exception as exc:  # onnxruntime's errors have no common base class
        if shutil.disk_usage(scratch).free < path.stat().st_size:  # it does not check what it wrote
            raise MissingRequirement(f"no room to work in {scratch}", hint="set TMPDIR") from exc
        raise environment_fault(exc) or BadInput(
            f"ONNX Runtime does not open {path}: {first_line(exc)}"
        ) from exc


class _Once:
    """A calibrator's data reader with a single batch."""

    def __init__(self, inputs: dict[str, NDArray[Any]]) -> None:
        self._queue: list[dict[str, NDArray[Any]]] = [inputs]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The batch, then None."""
        return self._queue.pop() if self._queue else None
