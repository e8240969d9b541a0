"""The session on the toolkit's kernels: on a CPU, where PyTorch's operators compute the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnext.errors import MissingRequirement, SessionFailed, UsageError
from resnext.kernels import ops
from resnext.kernels.network import First, FusedNetwork
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.machine.machine import this_machine
from resnext.network.config import ResNeXtConfig
from resnext.precision import Precision
from resnext.runtimes.availability import available
from resnext.runtimes.buffers import DeviceMemory, HostMemory
from resnext.runtimes.pytorch import fused
from resnext.runtimes.pytorch.fused import FusedSession
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.delivered import delivered_share
from resnext.verify.eager import reference_logits
from resnext.weights.spec import Weights, load_weights
from resnext_bench.cases import merge_problem

#: Groups of 24 channels, which no width of the kernel is a multiple of, and of 8.
ODD = ResNeXtConfig((1, 1), cardinality=2, bottleneck_width=24, stem="small", input_size=(8, 8))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Tiles that were timed in each race; the last one wins."""
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    races: list[int] = []

    def time_calls(
        calls: Mapping[str, Callable[[], object]], *_: object, **__: object
    ) -> Mapping[str, list[float]]:
        races.append(len(calls))
        return {title: [1.0 / (index + 1)] for index, title in enumerate(calls)}

    monkeypatch.setattr(fused, "time_calls", time_calls)
    return races


def opened(weights: Weights, precision: Precision = "fp16") -> FusedSession:
    return FusedSession(weights, SessionOptions(precision=precision), "torch-fused", HostMemory())


def images_of(weights: Weights, count: int) -> NDArray[np.float32]:
    config = weights.config
    shape = (count, config.in_channels, *config.input_size)
    return np.random.default_rng(count).standard_normal(shape).astype(np.float32)


def distance(weights: Weights, images: NDArray[Any], logits: NDArray[Any]) -> float:
    reference = reference_logits(weights, images)
    worst = np.abs(logits - reference).max() / np.sqrt(np.mean(reference**2))
    return float(worst)


@pytest.mark.parametrize(("precision", "gate"), [("fp16", 0.01), ("bf16", 0.06)])
def test_bound_and_plain_runs_agree_with_float64(
    precision: Precision, gate: float, weights: Weights
) -> None:
    with opened(weights, precision) as session:
        several, one = images_of(weights, 5), images_of(weights, 1)
        assert distance(weights, one, session.run({"input": one})["logits"]) < gate
        with session.bind({"input": several}) as bound:
            bound.enqueue()
            with session.bind({"input": one}) as second:  # another batch size, other tiles
                second.enqueue()
                assert distance(weights, one, second.fetch()["logits"]) < gate
            bound.enqueue()
            logits = bound.fetch()["logits"]
            assert logits.dtype == np.float32
            assert distance(weights, several, logits) < gate


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_every_layer_says_its_type_the_projections_too(
    precision: Precision, dtype: str, weights: Weights
) -> None:
    with opened(weights, precision) as session:
        delivered = session.delivered()
    assert delivered_share(delivered, weights.config, dtype) == 1.0
    both = [layer.modules for layer in delivered.layers if len(layer.modules) == 2]
    assert ("layer2.0.conv3", "layer2.0.downsample.0") in both
    assert delivered.notes["kernels"].startswith("3 of 3 grouped convolutions, merged to ")


def test_a_layer_in_another_type_is_not_passed_off(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def widened(*arguments: Any) -> torch.Tensor:
        wide: torch.Tensor = torch.ops.resnext.grouped_conv3x3(*arguments).float()
        return wide

    monkeypatch.setattr(ops, "grouped_conv3x3", widened)
    monkeypatch.setattr(
        ops, "pointwise", lambda x, *more: torch.ops.resnext.pointwise(x.half(), *more)
    )
    with opened(weights) as session:
        assert delivered_share(session.delivered(), weights.config, "float16") < 1.0


def test_tiles_are_timed_once_for_each_batch_size(weights: Weights, timed: list[int]) -> None:
    with opened(weights) as session:
        session.run({"input": images_of(weights, 3)})
        assert session.delivered().notes["tiles"] == "untried"
        assert not timed  # `run` alone times nothing
        with session.bind({"input": images_of(weights, 3)}):
            assert session.delivered().notes["tiles"] == "timed"
        first = len(timed)
        assert first == 9
        with session.bind({"input": images_of(weights, 3)}):
            assert len(timed) == first
        with session.bind({"input": images_of(weights, 64)}):
            assert len(timed) == 2 * first
    with opened(weights) as session, session.bind({"input": images_of(weights, 64)}):
        assert len(timed) == 2 * first  # another session finds the winners


def test_another_bind_keeps_the_network_that_a_captured_graph_reads(weights: Weights) -> None:
    with opened(weights) as session, session.bind({"input": images_of(weights, 3)}):
        first = session._networks[3]
        with session.bind({"input": images_of(weights, 3)}):
            assert session._networks[3] is first
        with session.bind({"input": images_of(weights, 5)}):
            assert session._networks[3] is first


def test_an_interrupted_timing_goes_on_behind_what_it_knows(
    weights: Weights, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    time_calls = vars(fused)["time_calls"]

    def interrupted(*arguments: Any, **more: Any) -> Any:
        if len(timed) == 2:
            raise KeyboardInterrupt
        return time_calls(*arguments, **more)

    inputs = {"input": images_of(weights, 3)}
    with opened(weights) as session:
        monkeypatch.setattr(fused, "time_calls", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.bind(inputs)
        assert session.run(inputs)["logits"].shape == (3, 10)  # untried
        monkeypatch.setattr(fused, "time_calls", time_calls)
        with session.bind(inputs):
            assert len(timed) == 9


def test_the_size_is_that_of_the_largest_network(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    with opened(weights) as session:
        for count, pick in enumerate((min, max), 1):  # wider groups are more weights
            picked = partial(pick, key=lambda choice: choice.width)
            monkeypatch.setattr(
                First, "conv", lambda _, __, choices, picked=picked: picked(choices)
            )
            monkeypatch.setattr(fused, "timed_tiles", lambda *_: nullcontext(First()))
            session.bind({"input": images_of(weights, count)})
            found.append(session.model_size_bytes)
    assert found[0] < found[1]


class OnCuda(HostMemory):
    """Claims a GPU, whose name comes last."""

    on_cuda = True
    device = "cuda:0 NVIDIA H100"


def test_a_graph_that_is_timed_has_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[int] = []

    def time_calls(
        calls: Mapping[str, Callable[[], object]], memory: DeviceMemory, *, graph: bool
    ) -> Mapping[str, list[float]]:
        assert graph is memory.on_cuda
        for call in calls.values():
            call()
        return {title: [2.0, 1.0] for title in calls}

    monkeypatch.setattr(fused, "time_calls", time_calls)
    for memory, count in ((OnCuda(), 8), (HostMemory(), 1)):
        with fused.timed_tiles(memory, torch.float16) as choose:
            assert choose._race([lambda: launched.append(0), lambda: launched.append(1)]) == [1, 1]
        assert (launched.count(0), launched.count(1)) == (count, count)
        launched.clear()


def test_what_the_kernel_does_not_take_is_named() -> None:
    weights = load_weights("seeded", ODD)
    with opened(weights) as session:
        images = images_of(weights, 2)
        assert distance(weights, images, session.run({"input": images})["logits"]) < 0.05
        delivered = session.delivered()
    assert delivered_share(delivered, ODD, "float16") == 1.0
    assert delivered.notes["kernels"] == "0 of 2 grouped convolutions"
    assert delivered.notes["on PyTorch's kernels"] == "layer1.0.conv2, layer2.0.conv2"


def test_a_failing_kernel_is_one_line(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def fail(*_: object) -> torch.Tensor:
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(FusedNetwork, "forward", fail)
    with (
        opened(weights) as session,
        pytest.raises(SessionFailed, match=r"^torch-fused failed"),
    ):
        session.run({"input": images_of(weights, 1)})


def test_it_is_refused_where_it_cannot_run(weights: Weights) -> None:
    with pytest.raises(UsageError, match=r"does not run fp32; .*, or `precision` fp16, bf16$"):
        open_session(weights, "torch-fused")
    with pytest.raises(UsageError, match="runs on cuda only"):
        open_session(weights, "torch-fused", options=SessionOptions(device="cpu", precision="fp16"))
    assert merge_problem("torch-fused", None) is None
    assert "chooses the width" in str(merge_problem("torch-fused", 32))


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver("no driver"), "no CUDA device: no driver"),
        (Driver(None, 1, "13.0", (Gpu("a GPU", "9.0"),)), "cannot use this machine's CUDA device"),
    ],
)
def test_without_a_gpu_the_hint_is_one_that_helps(
    driver: Driver, message: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_driver, "probe_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingRequirement) as caught:
        open_session(weights, "torch-fused", options=SessionOptions(precision="fp16"))
    finding = available("torch-fused", machine=this_machine())
    assert finding is not None
    for said in (str(caught.value), str(finding)):
        assert message in said
        assert "use `backend` torch-folded" in said
        assert "`device` cpu" not in said  # refused in the next line


@pytest.mark.parametrize(
    ("capability", "problem"), [("7.5", "old-gpu"), ("8.0", None), ("9.0", None), ("12.0", None)]
)
def test_older_gpus_are_told_what_to_use(
    capability: str, problem: str | None, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(None, 1, "13.0", (Gpu("a GPU", capability),))
    monkeypatch.setattr(cuda_driver, "probe_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = available("torch-fused", machine=this_machine())
    assert (finding and finding.code) == problem
    if problem:
        with pytest.raises(MissingRequirement, match=r"of compute capability 8\.0, and a GPU has"):
            open_session(weights, "torch-fused", options=SessionOptions(precision="fp16"))
