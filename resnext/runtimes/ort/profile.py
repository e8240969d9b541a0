"""A profiled run of ONNX Runtime: provider and element type of each node."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from resnext.artifact.specs import TensorSpec
from resnext.errors import SessionFailed, first_line
from resnext.machine.faults import environment_fault
from resnext.network.layers import module_of
from resnext.runtimes.session import Arrays, DeliveredLayer, LayerTime
from resnext.storage import scratch_folder

from .provider import Open

if TYPE_CHECKING:
    import onnx

#: Convolutions and matrix products, and the operators into which ONNX Runtime fuses them.
HEAVY = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "QLinearConv": "Conv",
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
}
#: ONNX Runtime's additions to node names: the blocked layout of its CPU kernels, casts of fp16, and
#: numbers that make names unique.
_ADDED = re.compile(r"^InsertedPrecisionFreeCast_|(?:_nchwc)?(?:_token_\d+)?$")
_DTYPES = {"float": "float32", "double": "float64"}

Event = dict[str, Any]


def profiled_run(
    native: ort.SessionOptions,
    open_: Open,
    inputs: tuple[TensorSpec, ...],
    *,
    batch: int,
    backend: str,
) -> tuple[Any, list[Event]]:
    """Run zeros once in a new session.

    Args:
        native: options of the session; profiling is switched on in them.
        open_: opens the session.
        inputs: specs of the network's inputs.
        batch: batch size.
        backend: name of the runtime, for messages.

    Returns:
        The session, and one event for each kernel that ran.

    Raises:
        SessionFailed: the run failed.
    """
    arrays = {
        spec.name: np.zeros([batch if n is None else n for n in spec.shape], spec.dtype)
        for spec in inputs
    }
    return profiled_runs(native, open_, [arrays], backend=backend)


def profiled_runs(
    native: ort.SessionOptions, open_: Open, runs: Iterable[Arrays], *, backend: str
) -> tuple[Any, list[Event]]:
    """Run in a new session.

    Args:
        native: options of the session; profiling is switched on in them.
        open_: opens the session.
        runs: the inputs of each run; taken one at a time, when the run before is over.
        backend: name of the runtime, for messages.

    Returns:
        The session, and one event for each kernel that ran, in order.

    Raises:
        SessionFailed: a run failed.
    """
    with scratch_folder() as folder:
        native.enable_profiling = True
        native.profile_file_prefix = str(folder / "profile")
        session = open_(native)
        try:
            for arrays in runs:
                session.run([value.name for value in session.get_outputs()], arrays)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as exc:  # onnxruntime's errors have no common base
            raise environment_fault(exc) or SessionFailed(
                f"{backend} failed in a profiled run: {first_line(exc)}"
            ) from exc
    return session, [
        event
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    ]


def layers_from_profile(
    events: list[Event], modules: Mapping[str, str]
) -> tuple[DeliveredLayer, ...]:
    """The nodes of the optimized graph that ran.

    Args:
        events: from `profiled_run`.
        modules: from `modules_by_output`, for kernels that are named after a tensor.
    """
    layers = []
    for event in events:
        details = event.get("args", {})
        op = str(details.get("op_name"))
        types = details.get("input_type_shape") or [{}]
        dtype = next(iter(types[0]), "unknown")
        provider = str(details.get("provider", "unknown")).removesuffix("ExecutionProvider")
        name = str(event["name"]).removesuffix("_kernel_time")
        bare = _ADDED.sub("", name)
        module = (module_of(bare) or modules.get(bare)) if op in HEAVY else None
        layers.append(
            DeliveredLayer(
                name,
                HEAVY.get(op, op),
                _DTYPES.get(dtype, dtype),
                provider,
                (module,) if module else (),
            )
        )
    return tuple(layers)


def layer_times(
    events: list[Event], runs: int, modules: Mapping[str, str]
) -> tuple[LayerTime, ...]:
    """The nodes with their median times; the first run is not counted.

    Args:
        events: from `profiled_runs`, of several equal runs.
        runs: their number, the first included.
        modules: as for `layers_from_profile`.

    Raises:
        SessionFailed: the events are not those of equal runs.
    """
    count, rest = divmod(len(events), runs)
    by_run = [events[start : start + count] for start in range(0, len(events), count or 1)]
    nodes = [[event["name"] for event in each] for each in by_run]
    if rest or not count or any(each != nodes[0] for each in nodes):
        raise SessionFailed("ONNX Runtime's profile has other nodes in one run than in the next")
    return tuple(
        LayerTime(layer, statistics.median(float(each[index]["dur"]) for each in by_run[1:]) * 1e3)
        for index, layer in enumerate(layers_from_profile(by_run[0], modules))
    )


def modules_by_output(model: onnx.ModelProto) -> dict[str, str]:
    """The module of each convolution's output, and of the ReLU's after it: some kernels are named
    after these tensors.
    """
    modules: dict[str, str] = {}
    for node in model.graph.node:
        module = module_of(node.name) if node.op_type in HEAVY else None
        if node.op_type == "Relu":
            module = modules.get(node.input[0])
        if module:
            modules[node.output[0]] = module
    return modules
