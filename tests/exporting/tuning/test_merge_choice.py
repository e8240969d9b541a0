"""The choice of group widths: by a planted clock that says what each width costs, and once for real
on each runtime.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnext.artifact.files import Artifact
from resnext.errors import (
    BadArtifact,
    BadInput,
    GateFailed,
    MissingRequirement,
    SessionFailed,
    UsageError,
)
from resnext.images.synthetic import seeded_pixels
from resnext.weights.spec import Weights
from resnext_export.calibration.collect import calibrate
from resnext_export.passes.base import run_pass
from resnext_export.passes.merge_proof import prove_merge
from resnext_export.passes.quantize_int8 import QuantizeInt8
from resnext_export.tuning import merge_width, model_timer
from resnext_export.tuning.merge_width import MergeChoice, fastest_merge
from resnext_export.tuning.model_timer import Runtime, Timer

#: Names, groups and width of the convolutions of the small network that the planted clock times.
LAYERS = {"layer1.0.conv2": (8, 4), "layer1.1.conv2": (8, 4), "layer2.0.conv2": (4, 8)}
UNMERGED = {"layer1": 4, "layer2": 8}
FLAT = {"layer2": {8: 10.0, 16: 10.0, 32: 10.0}}


def small(
    layers: Mapping[str, tuple[int, int]] = LAYERS,
    kind: int = TensorProto.FLOAT,
    batch: int | str = "batch",
) -> onnx.ModelProto:
    """Convolutions one after the other, and the first's pixels as N x H x W x C where ``kind`` is
    uint8.
    """
    random = np.random.default_rng(0)
    float_kind = TensorProto.FLOAT if kind == TensorProto.UINT8 else kind
    dtype = helper.tensor_dtype_to_np_dtype(float_kind)
    channels = int(np.prod(next(iter(layers.values()))))
    nodes, tensors, last = [], [], "input"
    shape = [batch, channels, 6, 6]
    if kind == TensorProto.UINT8:
        shape = [batch, 6, 6, channels]
        nodes.append(helper.make_node("Transpose", ["input"], ["moved"], "move", perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Cast", ["moved"], ["cast"], "cast", to=float_kind))
        last = "cast"
    for place, (name, (groups, width)) in enumerate(layers.items()):
        weight = random.standard_normal((channels, width, 3, 3)).astype(dtype)
        tensors.append(numpy_helper.from_array(weight, f"{place}.weight"))
        nodes.append(
            helper.make_node(
                "Conv", [last, f"{place}.weight"], [f"{place}.out"], name, group=groups
            )
        )
        nodes[-1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
        last = f"{place}.out"
    nodes.append(helper.make_node("Relu", [last], ["output"], "relu"))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("output", float_kind, [batch, channels, 6, 6])],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def widths(
    proto: onnx.ModelProto, layers: Mapping[str, tuple[int, int]] = LAYERS
) -> dict[str, int]:
    """Width of each stage of `small`'s network."""
    found = {}
    for node in proto.graph.node:
        if node.op_type == "Conv":
            groups = next(attribute.i for attribute in node.attribute if attribute.name == "group")
            found[node.name.split(".")[0]] = int(np.prod(layers[node.name])) // groups
    return found


class Clock:
    """In place of a runtime: a model takes the milliseconds that its widths cost, and the machine
    drifts meanwhile.

    Attributes:
        costs: milliseconds by stage and width.
        drift: by how much of the first time each run is slower than the one before.
        disturbed: runs that take ten times as long.
        opened: widths of each model that was opened.
        most_open: models open at the same time.
    """

    def __init__(
        self,
        costs: Mapping[str, Mapping[int, float]],
        drift: float = 0.0,
        disturbed: frozenset[int] = frozenset(),
    ) -> None:
        self.costs, self.drift, self.disturbed = costs, drift, disturbed
        self.runs = 0
        self.opened: list[dict[str, int]] = []
        self.most_open = 0
        self.open: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, proto: onnx.ModelProto) -> Timer:
        found = widths(proto)
        self.opened.append(found)

        def run() -> float:
            self.runs += 1
            cost = sum(self.costs[stage][width] for stage, width in found.items())
            return cost * (1 + self.drift * self.runs) * (10 if self.runs in self.disturbed else 1)

        self.open.add(run)
        self.most_open = max(self.most_open, len(self.open))
        return run


def chosen(clock: Clock, proto: onnx.ModelProto | None = None) -> MergeChoice:
    return fastest_merge(proto or small(), "ort", 8, open_timer=clock)


@pytest.fixture(autouse=True)
def _stages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stages' choices come to, without one width for all."""
    monkeypatch.setattr(merge_width, "_UNIFORM", ())


def test_each_stage_gets_its_fastest_width() -> None:
    proto = small()
    before = proto.SerializeToString()
    clock = Clock({"layer1": {4: 10, 8: 8, 16: 5, 32: 6}, "layer2": {8: 10, 16: 12, 32: 9}})
    choice = chosen(clock, proto)
    assert choice.widths == widths(choice.proto) == {"layer1": 16, "layer2": 32}
    assert choice.speedup == pytest.approx(20 / 14)
    assert prove_merge(proto, choice.proto).convs == tuple(LAYERS)
    assert proto.SerializeToString() == before
    expected = [
        ("layer1", 4, 20, 1),
        ("layer1", 8, 18, 0.9),
        ("layer1", 16, 15, 0.75),
        ("layer1", 32, 16, 0.8),
        ("layer2", 8, 15, 1),
        ("layer2", 16, 17, 17 / 15),
        ("layer2", 32, 14, 14 / 15),
    ]
    assert [(timing.stage, timing.width) for timing in choice.timings] == [
        row[:2] for row in expected
    ]
    for timing, (_, _, ms, ratio) in zip(choice.timings, expected, strict=True):
        assert [timing.median_ms, timing.ratio] == pytest.approx([ms, ratio])


class Together(Clock):
    """A machine on which stages of one width run faster together than each alone says."""

    def __init__(self, together: float) -> None:
        super().__init__(
            {"layer1": {4: 10, 8: 9.9, 16: 8.5, 32: 9}, "layer2": {8: 10, 16: 10, 32: 9}}
        )
        self.together = together

    def __call__(self, proto: onnx.ModelProto) -> Timer:
        run, alike = super().__call__(proto), len(set(widths(proto).values())) == 1
        return lambda: run() * (self.together if alike else 1)


@pytest.mark.parametrize(
    ("together", "wanted"),
    [
        (0.7, {"layer1": 16, "layer2": 16}),
        (0.97, {"layer1": 16, "layer2": 32}),
        (1.2, {"layer1": 16, "layer2": 32}),
    ],
)
def test_one_width_for_all_wins_where_it_is_faster_by_two_percent(
    together: float, wanted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_width, "_UNIFORM", (16,))
    proto = small()
    choice = chosen(Together(together), proto)
    assert choice.widths == widths(choice.proto) == wanted
    assert choice.speedup == pytest.approx(20 / (18.5 * together) if together == 0.7 else 20 / 17.5)
    assert prove_merge(proto, choice.proto).convs == tuple(LAYERS)


def test_a_tie_keeps_the_narrower_width() -> None:
    proto = small()
    tied = Clock(
        {"layer1": {4: 10, 8: 9.8, 16: 9.7, 32: 9.7}, **FLAT}
    )  # 1.5 % of the whole network's 20 ms
    choice = chosen(tied, proto)
    assert choice.proto is proto
    assert (choice.widths, choice.speedup) == (UNMERGED, 1.0)
    assert len(tied.opened) == 1 + 3 + 2  # nothing is left to be measured anew
    assert chosen(Clock({"layer1": {4: 10, 8: 5, 16: 4.8, 32: 4.9}, **FLAT})).widths["layer1"] == 8
    assert (
        chosen(Clock({"layer1": {4: 10, 8: 9.7, 16: 9.5, 32: 9.3}, **FLAT})).widths["layer1"] == 16
    )


DRIFTS = (0.05, 0.002, -0.002)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_machine_that_slows_down_or_speeds_up_does_not_choose(drift: float) -> None:
    equal = {"layer1": dict.fromkeys((4, 8, 16, 32), 10.0), **FLAT}
    assert chosen(Clock(equal, drift)).widths == UNMERGED
    better = {"layer1": {4: 10.0, 8: 9.5, 16: 9.0, 32: 10.0}, **FLAT}
    choice = chosen(Clock(better, drift))
    assert choice.widths == {"layer1": 16, "layer2": 8}
    assert choice.speedup == pytest.approx(20 / 19)


def test_candidates_timed_one_after_the_other_would_be_fooled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead: dict[Timer, list[float]] = {}

    def blocks(timers: Mapping[int, Timer], names: Iterable[int]) -> dict[int, float]:
        """Times of several rounds are taken at once."""
        times = {}
        for name in names:
            queue = ahead.setdefault(timers[name], [])
            queue += [] if queue else [timers[name]() for _ in range(10)]
            times[name] = queue.pop()
        return times

    monkeypatch.setattr(merge_width, "_there_and_back", blocks)
    equal = {"layer1": dict.fromkeys((4, 8, 16, 32), 10.0), **FLAT}
    assert any(chosen(Clock(equal, drift)).widths != UNMERGED for drift in DRIFTS)


def test_a_moment_of_load_does_not_choose() -> None:
    costs = {"layer1": {4: 10.0, 8: 9.0, 16: 6.0, 32: 8.0}, "layer2": {8: 10.0, 16: 10.5, 32: 11.0}}
    last = Clock(costs)
    chosen(last)
    for run in range(1, last.runs + 1, 3):
        assert chosen(Clock(costs, disturbed=frozenset({run}))).widths == {
            "layer1": 16,
            "layer2": 8,
        }


def test_two_slow_widths_in_a_row_end_the_widening() -> None:
    clock = Clock({"layer1": {4: 10, 8: 17, 16: 18, 32: 1}, **FLAT})
    choice = chosen(clock)
    assert choice.widths == UNMERGED
    assert {found["layer1"] for found in clock.opened} == {4, 8, 16}
    assert [timing.width for timing in choice.timings if timing.stage == "layer1"] == [4, 8, 16]
    assert chosen(Clock({"layer1": {4: 10, 8: 17, 16: 12, 32: 5}, **FLAT})).widths["layer1"] == 32


def test_models_that_lost_are_closed() -> None:
    steep = Clock({"layer1": {4: 100, 8: 50, 16: 20, 32: 9}, "layer2": {8: 5, 16: 50, 32: 90}})
    choice = chosen(steep)
    assert choice.widths == {"layer1": 32, "layer2": 8}
    assert steep.most_open == 3  # the unmerged one, the best so far, and the next
    assert not steep.open


@pytest.mark.parametrize(
    ("costs", "runs"),
    [
        ((10, 10, 10, 10), 3 * 8 + 4 * 4 * 2),  # the interval of six rounds says: the same
        ((10, 12, 12, 12), 3 * 8),  # out after two rounds
        ((10, 15, 15, 1), 2 * 8),  # and the wider ones are not tried
        ((10, 12, 10.6, 13), 3 * 8 + 5 * 2 * 2),  # the test of seven rounds says: slower
        ((10, 5, 9, 9), 3 * 8),
    ],
)
def test_a_stage_takes_few_runs(costs: tuple[float, ...], runs: int) -> None:
    clock = Clock({"layer1": dict(zip((4, 8, 16, 32), costs, strict=True))})
    found = fastest_merge(small({"layer1.0.conv2": (8, 4)}), "ort", 8, open_timer=clock)
    close = [timing for timing in found.timings if timing.median_ms < 11]
    final = 0 if found.speedup == 1 else 2 * 2 * 7
    assert clock.runs - final == runs <= 12 * (len(found.timings) - 1) + 8 * len(close)


def changing(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, after: dict[str, dict[int, float]]
) -> None:
    """Let other costs hold for the last measurement."""
    real = merge_width._final

    def final(*models: Any) -> Any:
        clock.costs = after
        return real(*models)

    monkeypatch.setattr(merge_width, "_final", final)


@pytest.mark.parametrize("last", [11.0, 10.0, 9.9])
def test_a_merge_that_does_not_pay_in_the_end_is_undone(
    last: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = small()
    clock = Clock({"layer1": {4: 10, 8: 8, 16: 5, 32: 6}, **FLAT})
    changing(monkeypatch, clock, {"layer1": {4: 10, 16: last}, **FLAT})
    choice = chosen(clock, proto)
    assert choice.proto is proto
    assert (choice.widths, choice.speedup) == (UNMERGED, 1.0)
    assert min(timing.ratio for timing in choice.timings) == pytest.approx(0.75)


def test_the_speedup_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({"layer1": {4: 10, 8: 8, 16: 5, 32: 6}, **FLAT})
    changing(monkeypatch, clock, {"layer1": {4: 50, 16: 20}, **FLAT})
    assert chosen(clock).speedup == pytest.approx(2.0)
    assert clock.opened[-2:] == [UNMERGED, {"layer1": 16, "layer2": 8}]


def test_what_is_accepted_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    proven = []

    def prove(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        proven.append((widths(before), widths(after)))

    monkeypatch.setattr(merge_width, "prove_merge", prove)
    costs = {"layer1": {4: 10, 8: 5, 16: 6, 32: 6}, "layer2": {8: 10, 16: 5, 32: 6}}
    chosen(Clock(costs))
    steps = [UNMERGED, {"layer1": 8, "layer2": 8}, {"layer1": 8, "layer2": 16}]
    assert proven == [(steps[0], steps[1]), (steps[1], steps[2])]

    def refuse(*_: object) -> None:
        raise GateFailed("not the same function")

    monkeypatch.setattr(merge_width, "prove_merge", refuse)
    with pytest.raises(GateFailed):
        chosen(Clock(costs))


def test_stages_without_names_are_told_apart_by_groups_and_width() -> None:
    layers = {"a": (8, 4), "b": (4, 8), "c": (8, 4), "layer7.conv": (8, 4)}
    choice = fastest_merge(small(layers), "ort", 8, open_timer=lambda _: lambda: 1.0)
    assert choice.widths == {"8x4d": 4, "4x8d": 8, "layer7": 4}


def test_groups_without_a_factor_of_two_are_widened_as_they_can_be() -> None:
    choice = fastest_merge(small({"a": (6, 2)}), "ort", 8, open_timer=lambda _: lambda: 1.0)
    assert [timing.width for timing in choice.timings] == [2, 4, 12]


def test_a_network_without_groups_is_not_even_opened() -> None:
    proto = small({"layer1.0.conv2": (1, 8)})

    def refuse(_: onnx.ModelProto) -> Timer:
        raise AssertionError

    assert fastest_merge(proto, "ort", 8, open_timer=refuse) == MergeChoice({}, (), 1.0, proto)


# The runtimes.


@pytest.fixture
def short_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_timer, "_VISIT_NS", 1_000_000)


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every model, and let the widest one win whatever the machine says."""
    real = merge_width._there_and_back

    def wide_wins(timers: Mapping[int, Timer], names: Iterable[int]) -> dict[int, float]:
        return {name: ms / 10.0**name for name, ms in real(timers, names).items()}

    monkeypatch.setattr(merge_width, "_there_and_back", wide_wins)


def logits(proto: onnx.ModelProto, runtime: Runtime, images: NDArray[Any]) -> NDArray[Any]:
    if runtime == "ort":
        session = ort.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {"input": images})[0])
    from resnext.runtimes.openvino.library import hints, ov

    core = ov.Core()
    model = core.compile_model(
        core.read_model(proto.SerializeToString()), "CPU", {hints.inference_precision: ov.Type.f32}
    )
    return np.array(model(images)[0])


@pytest.mark.usefixtures("short_visits")
@pytest.mark.exhaustive
@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_a_quantized_network_gives_the_same_logits(
    runtime: Runtime, digits: Weights, digits_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, 16))
    ranges = calibrate(digits_artifact.path, [images], source="test images", source_sha256="a" * 64)
    proto = run_pass(QuantizeInt8(ranges, runtime), onnx.load(digits_artifact.path)).proto
    eager(monkeypatch)
    choice = fastest_merge(proto, runtime, 4, threads=1)
    assert choice.widths == {"layer1": 32, "layer2": 64, "layer3": 128}  # one group each
    assert [timing.stage for timing in choice.timings] == ["layer1"] * 4 + ["layer2"] * 4 + [
        "layer3"
    ] * 4
    assert all(timing.median_ms > 0 and timing.ratio > 0 for timing in choice.timings)
    assert choice.speedup > 0
    before, after = (logits(model, runtime, images) for model in (proto, choice.proto))
    assert np.abs(before - after).max() <= 1e-5 * np.sqrt(np.mean(before**2))


@pytest.mark.usefixtures("short_visits")
@pytest.mark.parametrize(
    ("runtime", "kind"),
    [
        ("ort", TensorProto.FLOAT16),
        ("openvino", TensorProto.UINT8),
        pytest.param("ort", TensorProto.UINT8, marks=pytest.mark.exhaustive),
        pytest.param("openvino", TensorProto.FLOAT16, marks=pytest.mark.exhaustive),
    ],
)
def test_pixels_and_half_precision_are_taken_as_the_graph_takes_them(
    runtime: Runtime, kind: int
) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    for batch in ("batch", 2):
        choice = fastest_merge(small({"a": (2, 4)}, kind, batch), runtime, 2)
        assert [timing.width for timing in choice.timings] == [4, 8]


def test_a_time_is_that_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    runs: list[int] = []

    def runner(*_: object) -> Any:
        def run() -> None:
            nonlocal now_ns
            now_ns += 10_000_000 if runs else 500_000_000  # the first run is slow
            runs.append(now_ns)

        return run

    monkeypatch.setattr(model_timer, "RUNNERS", {"ort": runner})
    monkeypatch.setattr("resnext.timing.clock.now_ns", lambda: now_ns)
    timer = model_timer.model_timer(small(), runtime="ort", batch=8, threads=None)
    # The slow one is longer than a visit takes to settle: one call to warm up, one to time.
    assert len(runs) == 2
    assert timer() == 10.0
    assert len(runs) == 2 + 5 + 3  # 50 ms to settle, and 30 ms of timed ones


def test_a_call_that_is_off_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown runtime 'trt'; known: ort, openvino"):
        fastest_merge(small(), "trt", 8)  # type: ignore[arg-type]
    for batch, threads in ((0, None), (8, 0)):
        with pytest.raises(UsageError, match="batch and threads must be at least 1"):
            fastest_merge(small(), "ort", batch, threads=threads)


def test_another_batch_than_the_graphs_is_refused() -> None:
    with pytest.raises(BadInput, match="input 'input' is 3 x 32 x 6 x 6: it must take 8 images"):
        fastest_merge(small(batch=3), "ort", 8)
    proto = small()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(BadInput, match="is any x 32 x any x 6"):
        fastest_merge(proto, "ort", 8)


def test_convolutions_of_the_same_name_are_refused() -> None:
    proto = small()
    for node in proto.graph.node:
        node.name = "same"
    with pytest.raises(BadInput, match="a grouped convolution has the name 'same'"):
        chosen(Clock({}), proto)


def test_a_weight_that_is_no_constant_is_refused() -> None:
    proto = small()
    proto.graph.node.insert(0, helper.make_node("Neg", ["0.weight"], ["computed"], "neg"))
    proto.graph.node[1].input[1] = "computed"
    with pytest.raises(BadArtifact, match=r"layer1\.0\.conv2: its weight .* is not a constant"):
        chosen(Clock({}), proto)


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_a_model_that_the_runtime_refuses_is_one_line(runtime: Runtime) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    proto = small()
    proto.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(SessionFailed, match=f"{runtime} cannot run the model: ") as exc:
        fastest_merge(proto, runtime, 8)
    assert "\n" not in str(exc.value)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resnext.runtimes.openvino.door", None)
    with pytest.raises(MissingRequirement, match="backend 'openvino' needs the Python package"):
        fastest_merge(small(), "openvino", 8)
