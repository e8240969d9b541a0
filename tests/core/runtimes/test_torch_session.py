"""PyTorch sessions: forms of the network, choices at the reported boundary, no setting of the
process left changed.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from fakes.package import FakeLoader, fake_package, record_here
from resnext.errors import SessionFailed
from resnext.images.synthetic import seeded_pixels
from resnext.network.config import VARIANTS
from resnext.network.forms import fold_batch_norms, merge_model_groups
from resnext.precision import PRECISIONS
from resnext.runtimes import tensor_session
from resnext.runtimes.buffers import HostMemory, Replay, full_float32, torch_dtype
from resnext.runtimes.pt2.session import Pt2Session
from resnext.runtimes.pytorch import trial
from resnext.runtimes.pytorch.session import TorchSession
from resnext.runtimes.pytorch.trial import widths_to_try
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Arrays
from resnext.runtimes.tensor_session import TensorSession
from resnext.verify import eager
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare, gate_for
from resnext.weights.spec import Weights, load_model, load_weights

BACKENDS: Any = torch.backends  # its stubs lack attributes that it adds at run time


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 9))


class Device(HostMemory):
    """The host in place of a GPU: a graph is what one run left."""

    stream, device, on_cuda = 4711, "cuda:0 NVIDIA Fake", True

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.captured = 0

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Replay:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captured += 1
        work()
        return lambda: None


# Forms of the network.


@pytest.mark.parametrize(
    ("name", "options", "precision"),
    [
        ("torch", {"merge_groups": 8}, "fp32"),
        ("torch", {"merge_groups": 1000}, "fp32"),  # one group
        ("torch-folded", {}, "fp32"),
        ("torch-folded", {"memory_format": "nchw"}, "fp32"),
        (
            "torch-folded",
            {"merge_groups": 16},
            "fp32",
        ),  # biases of folded batch norms must come along
        ("torch-folded", {"merge_groups": 16}, "bf16"),
        ("torch", {"merge_groups": "auto"}, "fp32"),
    ],
)
def test_every_form_is_the_same_function(
    name: str, options: dict[str, Any], precision: Any, weights: Weights, images: Any
) -> None:
    reference, gate = reference_logits(weights, images), gate_for(precision)
    eager = reference_logits(weights, images, torch_dtype(PRECISIONS[precision].weight_dtype))
    with open_session(
        weights, name, options=SessionOptions(device="cpu", precision=precision, **options)
    ) as session:
        bound = session.bind({"input": images})
        bound.enqueue()
        for logits in (bound.fetch()["logits"], session.run({"input": images})["logits"]):
            outcome = compare(reference, logits, gate=gate, baseline=eager)
            assert outcome.passed, outcome.failures
        delivered = session.delivered()
        assert {layer.modules for layer in delivered.layers} >= {("layer1.0.conv2",), ("fc",)}
        assert len(delivered.layers) == 14
        layout = options.get("memory_format", "channels-last" if name == "torch-folded" else None)
        assert layout is None or delivered.notes["memory format"] == layout
        if isinstance(options.get("merge_groups"), int):
            assert (
                delivered.notes["groups"]
                == f"merged to {options['merge_groups']} channels at least"
            )


def test_folded_means_that_no_batch_norm_runs(weights: Weights) -> None:
    model = fold_batch_norms(load_model(weights))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not norms
    assert (
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in load_model(weights).modules())
        == 13
    )


def test_merging_keeps_the_biases_of_folded_batch_norms(weights: Weights, images: Any) -> None:
    folded = fold_batch_norms(load_model(weights)).double()
    batch = torch.from_numpy(images).double()
    with torch.inference_mode():
        np.testing.assert_allclose(
            merge_model_groups(folded, 16)(batch), folded(batch), rtol=0, atol=1e-10
        )


def test_the_size_is_of_the_tensors_that_the_form_holds(weights: Weights) -> None:
    sizes = {}
    for width in (None, 64):
        for precision in ("fp32", "fp16"):
            options = SessionOptions(
                device="cpu", precision=precision, merge_groups=width, memory_format="nchw"
            )
            with open_session(weights, "torch", options=options) as session:
                sizes[width, precision] = session.model_size_bytes or 0
    assert sizes[None, "fp32"] == sum(value.nbytes for value in weights.state_dict.values())
    assert sizes[None, "fp16"] < 0.52 * sizes[None, "fp32"]
    assert sizes[64, "fp32"] > sizes[None, "fp32"]


@pytest.mark.parametrize(
    ("model", "widths"),
    [
        ("resnext50_32x4d", (8, 16, 32, 64, 128)),
        ("resnet50", ()),
        ("resnext101_32x8d", (16, 32, 64, 128)),
    ],
)
def test_only_widths_that_change_the_network_are_tried(model: str, widths: tuple[int, ...]) -> None:
    assert widths_to_try(VARIANTS[model]) == widths


@pytest.mark.exhaustive
@pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile on a CPU needs a C++ compiler"
)
def test_one_channel_is_compiled_once_however_its_array_lies(weights: Weights, images: Any) -> None:
    # With one channel an array counts as contiguous whatever that channel's stride is, and Dynamo
    # guards on strides.
    odd = images[:, :, ::-1][:, :, ::-1].copy()
    odd = np.lib.stride_tricks.as_strided(odd, odd.shape, (256, 4, 32, 4))
    with open_session(
        weights, "torch-compile", options=SessionOptions(device="cpu", memory_format="nchw")
    ) as session:
        session.bind({"input": images})
        first = session.run({"input": images})["logits"]
        np.testing.assert_array_equal(session.run({"input": odd})["logits"], first)
        assert session.delivered().notes["graphs"] == "1"


@pytest.mark.parametrize("array", ["plain", "read-only", "reversed", "one-channel strides"])
def test_arrays_are_placed_row_major_and_writable(array: str, images: Any) -> None:
    given = {
        "plain": images.copy(),
        "read-only": images.copy(),
        "reversed": images[::-1],
        "one-channel strides": np.lib.stride_tricks.as_strided(
            images, images.shape, (256, 4, 32, 4)
        ),
    }[array]
    if array == "read-only":
        given.setflags(write=False)
    placed = HostMemory().place(given)
    assert placed.stride() == (64, 64, 8, 1)
    np.testing.assert_array_equal(placed.numpy(), given)


# Choices, at the boundary that is reported.


@pytest.fixture
def planted(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[dict[str, float], dict[str, float]], list[str]]:
    """Plants what the host's clock and the events would say of each form, and notes which was
    asked.
    """

    def plant(on_host: dict[str, float], on_device: dict[str, float]) -> list[str]:
        asked: list[str] = []

        def device(trial: Any, runs: int) -> tuple[list[int], int]:
            asked.append("events")
            return [round(on_device[trial.title] * 1e6)] * runs, 1

        def host(call: Any, runs: int) -> list[int]:
            asked.append("host")
            return [round(on_host[call.__self__.title] * 1e6)] * runs

        monkeypatch.setattr(trial, "time_device", device)
        monkeypatch.setattr(trial, "time_visit", host)
        return asked

    return plant


LAYOUTS = {"nchw": 1.0, "channels-last": 1.0}


@pytest.mark.parametrize("graph", [True, False])
def test_on_cuda_the_layout_is_chosen_by_the_device_s_time_whatever_launching_takes(
    graph: bool, weights: Weights, images: Any, planted: Any
) -> None:
    # Launches look alike to the host, as they do at small batches; the kernels do not.
    asked = planted(LAYOUTS, {"nchw": 0.5, "channels-last": 0.3})
    with TorchSession(
        weights, SessionOptions(cuda_graph=graph), "torch", memory := Device()
    ) as session:
        session.bind({"input": images})
        notes = session.delivered().notes
    assert set(asked) == {"events"}
    assert memory.captured == (3 if graph else 0)  # both candidates and the winner's own
    assert notes["memory format"] == "channels-last"
    boundary = "graph" if graph else "device"
    assert (notes["trial nchw"], notes["trial channels-last"]) == (
        f"0.500 ms, {boundary}",
        f"0.300 ms, {boundary}",
    )


@pytest.mark.parametrize(
    ("merged_8", "merged_16", "chosen"),
    [
        (0.5, 0.4, "merged to 16 channels at least"),
        (0.99, 0.98, None),
        (0.7, 0.9, "merged to 8 channels at least"),
    ],
)
def test_the_width_of_groups_is_chosen_likewise_and_must_be_worth_it(
    merged_8: float,
    merged_16: float,
    chosen: str | None,
    weights: Weights,
    images: Any,
    planted: Any,
) -> None:
    times = {
        **LAYOUTS,
        **dict.fromkeys((f"merged {width}" for width in widths_to_try(weights.config)), 2.0),
    }
    times |= {"merged 8": merged_8, "merged 16": merged_16}
    planted({}, times)
    with TorchSession(weights, SessionOptions(merge_groups="auto"), "torch", Device()) as session:
        session.bind({"input": images})
        notes = session.delivered().notes
    assert notes.get("groups") == chosen
    assert notes["memory format"] == "nchw"


def test_on_a_cpu_the_host_s_clock_decides(weights: Weights, images: Any, planted: Any) -> None:
    asked = planted({"nchw": 1.0, "channels-last": 0.5}, {})
    with open_session(weights, "torch", options=SessionOptions(device="cpu")) as session:
        session.run({"input": images})
        assert session.delivered().notes["memory format"] == "channels-last"
    assert set(asked) == {"host"}


def test_a_capture_that_fails_is_an_error_and_leaves_what_was_bound_alone(
    weights: Weights, images: Any
) -> None:
    options = SessionOptions(memory_format="nchw")
    with TorchSession(weights, options, "torch", memory := Device()) as session:
        bound = session.bind({"input": images})
        assert (bound.boundary, bound.cuda_stream) == ("graph", 4711)
        before = bound.fetch()["logits"]
        memory.refuses = True
        with pytest.raises(SessionFailed, match="torch failed: operation not permitted"):
            session.bind({"input": images[::-1].copy()})
        bound.enqueue()
        np.testing.assert_array_equal(bound.fetch()["logits"], before)


def test_a_closed_session_says_so(weights: Weights, images: Any) -> None:
    session = open_session(weights, "torch", options=SessionOptions(device="cpu"))
    session.close()
    session.close()
    with pytest.raises(SessionFailed, match="closed"):
        session.run({"input": images})


# Settings of the process.


def readable(setting: Callable[[], object]) -> object:
    try:
        return setting()
    except RuntimeError:
        return "set through both interfaces"


def settings() -> dict[str, object]:
    """Every setting of the process that decides how PyTorch computes, and that a session has a say
    in.
    """
    cudnn, mkldnn = BACKENDS.cudnn, BACKENDS.mkldnn
    product = torch.backends.cuda.matmul
    return {
        "search": cudnn.benchmark,
        "search limit": cudnn.benchmark_limit,
        "deterministic": cudnn.deterministic,
        "convolution tf32": readable(lambda: cudnn.allow_tf32),
        "product tf32": readable(lambda: product.allow_tf32),
        "convolution": cudnn.conv.fp32_precision,
        "rnn": cudnn.rnn.fp32_precision,
        "product": product.fp32_precision,
        "cpu convolution": mkldnn.conv.fp32_precision,
        "cpu product": mkldnn.matmul.fp32_precision,
        "all": BACKENDS.fp32_precision,
        "matmul": readable(torch.get_float32_matmul_precision),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "recompile limit": torch._dynamo.config.recompile_limit,
        "dtype": torch.get_default_dtype(),
    }


@pytest.fixture
def _restored() -> Any:
    """Put the process's settings back, whatever a test plants."""
    cudnn = BACKENDS.cudnn
    product = torch.backends.cuda.matmul
    spots = (cudnn.conv, cudnn.rnn, product, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul)
    before = [spot.fp32_precision for spot in spots]
    yield
    BACKENDS.fp32_precision = "none"
    cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = True
    for spot, value in zip(spots, before, strict=True):
        spot.fp32_precision = value


def tf32_for_everything() -> None:
    BACKENDS.fp32_precision = "tf32"


PLANTED: dict[str, Callable[[], None]] = {
    "as PyTorch comes": lambda: None,
    "search on": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "convolutions exact": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "products in tf32": lambda: torch.set_float32_matmul_precision("high"),
    "products in bfloat16": lambda: torch.set_float32_matmul_precision("medium"),
    "products, other interface": lambda: setattr(
        torch.backends.cuda.matmul, "fp32_precision", "tf32"
    ),
    "convolutions, other interface": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "all in tf32": tf32_for_everything,
    "cpu convolutions in bfloat16": lambda: setattr(BACKENDS.mkldnn.conv, "fp32_precision", "bf16"),
}


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("planted", PLANTED)
def test_float32_is_exact_inside_and_the_process_is_left_as_it_was(planted: str) -> None:
    PLANTED[planted]()
    before = settings()
    inside: dict[str, object] = {}

    def fail() -> None:
        with full_float32():
            inside.update(settings())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == before
    assert inside["search"] is True
    exact = ("convolution", "rnn", "product", "cpu convolution", "cpu product")
    assert {inside[name] for name in exact} == {"ieee"}
    assert (inside["convolution tf32"], inside["product tf32"], inside["matmul"]) == (
        False,
        False,
        "highest",
    )


ROUNDED_ON_CPU = ["products in bfloat16", "cpu convolutions in bfloat16"]


def on_cpu(weights: Weights, images: Any) -> list[Any]:
    """Logits of float32 on the CPU: of a run, of a bound input and of the reference."""
    options = SessionOptions(device="cpu", memory_format="nchw")
    with open_session(weights, "torch", options=options) as session:
        inputs = {"input": images}
        return [
            session.run(inputs)["logits"],
            session.bind(inputs).fetch()["logits"],
            reference_logits(weights, images, torch.float32),
        ]


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("planted", ROUNDED_ON_CPU)
def test_float32_on_a_cpu_is_not_rounded_because_the_process_allows_it(
    planted: str, weights: Weights, images: Any
) -> None:
    exact = on_cpu(weights, images)
    PLANTED[planted]()
    before = settings()
    for logits, other in zip(exact, on_cpu(weights, images), strict=True):
        np.testing.assert_array_equal(logits, other)
    assert settings() == before


def bare_operators() -> torch.Tensor:
    """A product and a convolution of PyTorch's, without any session."""
    values = torch.linspace(0.1, 0.9, 64 * 64).reshape(64, 64)
    product = torch.nn.functional.linear(values, values)
    kernels = torch.linspace(0.1, 0.9, 32 * 32 * 9).reshape(32, 32, 3, 3)
    convolved = torch.nn.functional.conv2d(torch.ones(4, 32, 28, 28) / 3, kernels)
    return torch.cat([product.flatten(), convolved.flatten()])


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("planted", ROUNDED_ON_CPU)
def test_rounding_on_a_cpu_would_be_seen(
    planted: str, weights: Weights, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, bare = on_cpu(weights, images), bare_operators()
    for module in (tensor_session, eager):
        monkeypatch.setattr(module, "full_float32_on_cpu", nullcontext)
    PLANTED[planted]()
    if torch.equal(bare_operators(), bare):
        pytest.skip("this processor does not round")
    for logits, other in zip(exact, on_cpu(weights, images), strict=True):
        assert not np.array_equal(logits, other)


@pytest.mark.parametrize("fails", ["run", "bind"])
def test_a_failed_call_leaves_the_process_as_it_was(
    fails: str, weights: Weights, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(session: TorchSession, batch: torch.Tensor) -> torch.Tensor:
        del session, batch
        raise RuntimeError("no room")

    before = settings()
    options = SessionOptions(device="cpu", threads=torch.get_num_threads() + 1)
    with open_session(weights, "torch-folded", options=options) as session:
        monkeypatch.setattr(TorchSession, "call", call)
        with pytest.raises(SessionFailed, match="no room"):
            getattr(session, fails)({"input": images})
    assert settings() == before


@pytest.mark.parametrize("name", ["torch", "torch-folded"])
def test_a_failed_opening_leaves_the_process_as_it_was(
    name: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*_: object) -> None:
        raise RuntimeError("no room")

    before = settings()
    monkeypatch.setattr(torch.nn.Module, "to", empty)
    options = SessionOptions(device="cpu", threads=3, memory_format="nchw")
    with pytest.raises(RuntimeError, match="no room"):
        open_session(weights, name, options=options)
    assert settings() == before


class Watched(TorchSession):
    """Notes the settings at each launch."""

    seen: list[dict[str, object]]

    def call(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(settings())
        return super().call(images)


def used(session: TensorSession, inputs: Arrays) -> None:
    bound = session.bind(inputs)
    bound.enqueue()
    bound.synchronize()
    bound.fetch()
    session.run(inputs)
    session.delivered()


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("order", [("pt2", "torch"), ("torch", "pt2")])
def test_what_a_row_runs_with_does_not_depend_on_what_was_opened_before(
    order: tuple[str, ...],
    weights: Weights,
    images: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[dict[str, object]]] = {"pt2": [], "torch": []}

    def sums(batch: torch.Tensor) -> torch.Tensor:
        seen["pt2"].append(settings())
        return batch.flatten(1).sum(1, keepdim=True).repeat(1, 10)

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(sums))
    before = settings()
    for name in order:
        session: TensorSession
        if name == "torch":
            session = Watched(weights, SessionOptions(memory_format="nchw"), "torch", Device())
            session.seen = seen["torch"]
        else:
            record = record_here(weights, device="cuda", compute_capability="9.0", gpu="Fake")
            package = fake_package(tmp_path, weights, record)
            session = Pt2Session(package, package.path, SessionOptions(), "pt2", record, Device())
        with session:
            used(session, {"input": images})
            assert settings() == before
    assert settings() == before
    first, *rest = [*seen["pt2"], *seen["torch"]]
    assert len(seen["pt2"]) == len(seen["torch"]) == 5  # three warm runs, a capture, one run
    assert all(other == first for other in rest)
    assert first["convolution"] == "ieee"


@pytest.mark.parametrize("name", ["torch", "torch-folded"])
def test_a_session_s_threads_are_its_own(name: str, weights: Weights, images: Any) -> None:
    before = torch.get_num_threads()
    wanted = before + 1
    with open_session(
        weights, name, options=SessionOptions(device="cpu", threads=wanted)
    ) as session:
        used(session, {"input": images})  # type: ignore[arg-type]  # of this backend
        assert session.delivered().notes["threads"] == str(wanted)
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_threads_hold_while_it_runs(
    weights: Weights, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = TorchSession.call

    def call(session: TorchSession, batch: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return real(session, batch)

    monkeypatch.setattr(TorchSession, "call", call)
    wanted = torch.get_num_threads() + 1
    with open_session(
        weights, "torch", options=SessionOptions(device="cpu", threads=wanted, memory_format="nchw")
    ) as session:
        used(session, {"input": images})  # type: ignore[arg-type]  # of this backend
    assert set(seen) == {wanted}


@pytest.mark.exhaustive
@pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile on a CPU needs a C++ compiler"
)
def test_compiling_leaves_the_process_as_it_was(weights: Weights, images: Any) -> None:
    before = copy.deepcopy(settings())
    with open_session(
        weights, "torch-compile", options=SessionOptions(device="cpu", memory_format="nchw")
    ) as session:
        used(session, {"input": images})  # type: ignore[arg-type]  # of this backend
        session.run({"input": images[:3]})
    assert settings() == before
