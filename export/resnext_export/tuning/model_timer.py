"""How long one run of an ONNX model takes on a CPU, for choices that an export makes by timing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from resnext.errors import BadInput, MissingRequirement, ResnextError, SessionFailed, SilentFallback
from resnext.machine.faults import environment_fault
from resnext.runtimes.ort.cpu import CpuProvider
from resnext.runtimes.ort.provider import session_options
from resnext.runtimes.registry import SessionOptions, load_door
from resnext.timing.clock import iterations_for, time_visit

Runtime = Literal["ort", "openvino"]
#: Runs a model for a while when called; gives the milliseconds of one run.
Timer: TypeAlias = Callable[[], float]
_Feeds: TypeAlias = "dict[str, NDArray[Any]]"

#: Nanoseconds that a timed visit of a small network lasts.
_VISIT_NS = 30_000_000
_MOST_RUNS = 1000
#: OpenVINO's precision hint by the type of the weights; the rest of a quantized network is
#: float32.
_HINTS: dict[int, str] = {onnx.TensorProto.FLOAT16: "f16", onnx.TensorProto.BFLOAT16: "bf16"}


def model_timer(
    proto: onnx.ModelProto, *, runtime: Runtime, batch: int, threads: int | None
) -> Timer:
    """Open ``proto`` on ``runtime``, and warm it up. Both runtimes have finished when their call
    returns.

    Args:
        proto: the model, weights inside, its first dimension the batch.
        runtime: a key of `RUNNERS`.
        batch: images at a time.
        threads: of the runtime; None means the thread budget.

    Raises:
        BadInput: the input has other unknown dimensions than the batch, or another batch.
        MissingRequirement: the runtime is not installed, or the memory does not suffice.
        SilentFallback: the runtime uses fewer threads than requested.
        SessionFailed: the runtime refuses the model or fails while running it.
    """
    load_door(runtime)  # says what is not installed
    feeds = _feeds(proto, batch)
    with _translated(runtime):
        run = RUNNERS[runtime](proto, feeds, SessionOptions(threads=threads))
        (estimate_ns,) = time_visit(run, 1)
        runs = iterations_for(_VISIT_NS, estimate_ns, most=_MOST_RUNS)

    def visit() -> float:
        with _translated(runtime):
            return median(time_visit(run, runs, warm=runs > 1)) / 1e6

    return visit


def _feeds(proto: onnx.ModelProto, batch: int) -> _Feeds:
    """Seeded inputs: pixels for integers, normally distributed values for floating-point
    numbers.
    """
    held = {tensor.name for tensor in proto.graph.initializer}
    random, feeds = np.random.default_rng(0), {}
    for value in (value for value in proto.graph.input if value.name not in held):
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        first, *shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim] or [-1]
        if first not in (0, batch) or not all(shape):
            known = " x ".join(str(size or "any") for size in (first, *shape))
            raise BadInput(
                f"input {value.name!r} is {known}: it must take {batch} images, and have no other"
                " free size"
            )
        size = (batch, *shape)
        drawn = (
            random.integers(0, 256, size)
            if kind.kind in "iu"
            else random.standard_normal(size, np.float32)
        )
        feeds[value.name] = drawn.astype(kind)
    return feeds


def _weights_kind(proto: onnx.ModelProto) -> int:
    """Element type of most of the file's weights."""
    kinds = Counter(tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) > 1)
    return kinds.most_common(1)[0][0] if kinds else int(onnx.TensorProto.FLOAT)


def _ort_runner(
    proto: onnx.ModelProto, feeds: _Feeds, requested: SessionOptions
) -> Callable[[], object]:
    options = session_options(requested)
    # Its threads go on looking for work after a run, and would take the cores from the model that
    # is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=[CpuProvider.name])
    return partial(session.run, None, feeds)


def _openvino_runner(
    proto: onnx.ModelProto, feeds: _Feeds, requested: SessionOptions
) -> Callable[[], object]:
    from resnext.runtimes.openvino.library import hints, ov, properties, shared_core

    core = shared_core()
    model = core.read_model(proto.SerializeToString())
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {
        hints.inference_precision: getattr(ov.Type, _HINTS.get(_weights_kind(proto), "f32")),
        hints.performance_mode: hints.PerformanceMode.LATENCY,
        properties.num_streams: 1,
        properties.inference_num_threads: requested.thread_count,
    }
    compiled = core.compile_model(model, "CPU", settings)
    actual = compiled.get_property(properties.inference_num_threads)
    if requested.threads not in (None, actual):
        raise SilentFallback(
            f"{requested.threads} threads were requested, and OpenVINO uses {actual} on this"
            " machine"
        )
    request = compiled.create_infer_request()
    for name, array in feeds.items():
        request.set_tensor(name, ov.Tensor(array))
    return partial(request.infer, share_outputs=True)


#: Opens a model with its inputs; the result runs the model once.
RUNNERS: Mapping[str, Callable[[onnx.ModelProto, _Feeds, SessionOptions], Callable[[], object]]] = (
    MappingProxyType({"ort": _ort_runner, "openvino": _openvino_runner})
)


@contextmanager
def _translated(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    except ResnextError:
        raise
    except MemoryError as exc:
        raise MissingRequirement(
            f"{runtime}: out of memory while timing; use a smaller batch"
        ) from exc
    except Exception as exc:  # the runtimes' errors have no common base
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        raise environment_fault(exc) or SessionFailed(
            f"{runtime} cannot run the model: {lines[-1] if lines else type(exc).__name__}"
        ) from exc
