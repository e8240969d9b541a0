"""Times of layers: every layer of the network, medians of the runs, no run of the caller's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exported import export_onnx
from resnext.artifact.files import Artifact
from resnext.errors import BadInput, SessionFailed, UsageError
from resnext.images.synthetic import seeded_pixels
from resnext.network.layers import layers
from resnext.runtimes.openvino import layers as openvino_layers
from resnext.runtimes.openvino.layers import median_run
from resnext.runtimes.ort.profile import layer_times
from resnext.runtimes.pytorch import module_times
from resnext.runtimes.pytorch.module_times import median_times, run_modules
from resnext.runtimes.registry import RUNTIMES, SessionOptions, open_session
from resnext.runtimes.session import DeliveredLayer, LayerTime, Session
from resnext.testing.fake_session import FakeSession
from resnext.weights.spec import Weights, load_weights

OPTIONS = SessionOptions(device="cpu", threads=1, memory_format="nchw")
#: Backends that time their layers on a CPU, with whether they name the kernel.
TIMED = {"torch": False, "torch-folded": False, "ort-cpu": False, "openvino": True}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifact(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("times") / "artifact", check=False)


@pytest.fixture(scope="module")
def images(weights: Weights) -> NDArray[np.float32]:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 4))


def opened(backend: str, weights: Weights, artifact: Artifact) -> Session:
    return open_session(weights if RUNTIMES[backend].live else artifact, backend, options=OPTIONS)


@pytest.mark.parametrize("backend", TIMED)
def test_every_layer_of_the_network_is_timed_once(
    backend: str, weights: Weights, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    turns: list[int] = []
    with opened(backend, weights, artifact) as session:
        before = session(images)
        times = session.layer_times({"input": images}, 3, lambda: turns.append(1))
        assert len(turns) == 3
        assert (session(images) == before).all()
    modules = [module for time in times for module in time.layer.modules]
    assert sorted(modules) == sorted(layer.name for layer in layers(weights.config))
    assert all(time.ns >= 0 for time in times)
    assert sum(time.ns for time in times) > 10_000
    heavy = [time for time in times if time.layer.modules]
    assert all(bool(time.kernel) == TIMED[backend] for time in heavy)
    assert {time.layer.dtype for time in heavy} == {"float32"}


@pytest.mark.parametrize("backend", TIMED)
def test_a_wrong_input_is_refused_as_in_a_run(
    backend: str, weights: Weights, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    with opened(backend, weights, artifact) as session:
        with pytest.raises(BadInput, match="must be named"):
            session.layer_times({"images": images}, 1)
        session.close()
        with pytest.raises(SessionFailed, match="closed"):
            session.layer_times({"input": images}, 1)


@pytest.mark.parametrize(
    "backend", [pytest.param("torch-compile", marks=pytest.mark.exhaustive), "onnx-reference"]
)
def test_a_runtime_that_does_not_report_times_says_so(
    backend: str, weights: Weights, artifact: Artifact, images: NDArray[np.float32]
) -> None:
    with (
        opened(backend, weights, artifact) as session,
        pytest.raises(UsageError, match=f"'{backend}' does not report times of layers"),
    ):
        session.layer_times({"input": images}, 1)


def test_a_provider_whose_profile_has_launches_only_says_so(
    weights: Weights,
    artifact: Artifact,
    images: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resnext.runtimes.ort.cpu import CpuProvider

    monkeypatch.delattr(CpuProvider, "layer_times")
    with (
        opened("ort-cpu", weights, artifact) as session,
        pytest.raises(UsageError, match="'ort-cpu' does not report times of layers"),
    ):
        session.layer_times({"input": images}, 1)


def test_a_layer_whose_mean_rounds_to_nothing_in_a_run_has_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenVINO calls a layer not run while the mean of its runs is below a microsecond."""
    named = ("conv1", "input_QuantizeLinear", "constant")
    delivered = tuple(DeliveredLayer(name, "Conv", "int8", "cpu") for name in named)
    monkeypatch.setattr(openvino_layers, "delivered_layers", lambda *_: delivered)
    facts = [{"name": name, "primitiveType": "kernel"} for name in named]
    monkeypatch.setattr(openvino_layers, "layer_facts", lambda _: facts)
    for odd in ([3, 0, 0], [0, 3, 3]):
        means = [{"conv1": 9} | ({"input_QuantizeLinear": mean} if mean else {}) for mean in odd]
        times = openvino_layers.layer_times(None, {}, means)
        assert [time.layer.name for time in times] == ["conv1", "input_QuantizeLinear"]


def test_a_fake_reports_what_is_planted() -> None:
    layer = LayerTime(DeliveredLayer("fc", "Gemm", "float32", "cpu", ("fc",)), 5.0)
    session = FakeSession()
    inputs = {"input": np.zeros((1, 1), np.float32)}
    with pytest.raises(UsageError, match="'fake' does not report times of layers"):
        session.layer_times(inputs, 2)
    session.layers = (layer,)
    assert session.layer_times(inputs, 2) == (layer,)
    assert session.calls == 2


# ---- OpenVINO: means over all runs, in whole microseconds


def counters(runs: list[float]) -> list[int]:
    """What OpenVINO shows after each run."""
    return [
        sum(map(int, runs[:count])) // count  # both roundings are OpenVINO's
        for count in range(1, len(runs) + 1)
    ]


def test_the_first_run_is_taken_out_of_openvino_s_means() -> None:
    runs = [9000.0, *np.random.default_rng(0).normal(300, 3, 10)]
    means = counters(runs)
    assert means[-1] > 1000  # what the counters themselves say
    assert median_run(means) == pytest.approx(300, abs=6)


def test_openvino_s_rounding_has_no_bias() -> None:
    rng = np.random.default_rng(1)
    got = [median_run(counters([500.0, *rng.normal(20, 1, 10)])) for _ in range(400)]
    assert np.mean(got) == pytest.approx(20, abs=0.7)


def test_a_layer_below_a_microsecond_takes_no_time() -> None:
    assert median_run(counters([0.4] * 6)) == 0


# ---- ONNX Runtime: events of all runs, one after the other


def event(name: str, microseconds: int, op: str = "Conv") -> dict[str, Any]:
    return {
        "name": f"{name}_kernel_time",
        "dur": microseconds,
        "args": {"op_name": op, "provider": "CPUExecutionProvider"},
    }


def test_onnx_runtime_s_first_run_does_not_count() -> None:
    runs = [(900, 90), (10, 1), (30, 3), (20, 2)]
    events = [
        each
        for conv, relu in runs
        for each in (event("layer1.0.conv2", conv), event("node_relu", relu, "Relu"))
    ]
    conv, relu = layer_times(events, 4, {})
    assert (conv.ns, conv.layer.modules) == (20_000, ("layer1.0.conv2",))
    assert (relu.ns, relu.layer.modules) == (2_000, ())


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event("conv1", 1)] * 5,
        [event("conv1", 1), event("fc", 1), event("fc", 1), event("conv1", 1)],
    ],
    ids=["none", "not divisible", "another order"],
)
def test_runs_with_other_nodes_are_refused(events: list[dict[str, Any]]) -> None:
    with pytest.raises(SessionFailed, match="other nodes in one run"):
        layer_times(events, 2, {})


# ---- PyTorch: hooks around every module


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.fc(self.relu(x)))
        return out


def test_a_module_s_time_is_without_the_modules_that_it_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count(0, 10)  # the clock moves 10 ns whenever it is read
    monkeypatch.setattr(module_times, "now_ns", lambda: next(ticks))
    model = Outer()
    runs = [run_modules(model, lambda: model(torch.zeros(1, 1))) for _ in range(3)]
    times = median_times(runs)
    assert [(time.layer.name, time.layer.op, time.ns) for time in times] == [
        ("relu", "ReLU", 10),
        ("fc", "Gemm", 10),
        ("relu", "ReLU", 10),
        ("Outer", "Outer itself", 40),
    ]
    assert [time.layer.modules for time in times] == [(), ("fc",), (), ()]


def test_hooks_are_gone_after_an_error() -> None:
    model = Outer()
    with pytest.raises(RuntimeError):
        run_modules(model, lambda: model(torch.zeros(1, 2)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
