"""Our kernels on the device: float64's function at odd sizes, each element written and none beyond,
under graph capture, and the session on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from resnext.precision import Precision
from resnext.runtimes.availability import available
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.batches.integrity import session_integrity
from resnext.verify.parity import compare
from resnext.weights.spec import Weights, load_weights

pytest.importorskip("triton")

from resnext.kernels import grouped_conv3x3, ops, pointwise, pool
from resnext.kernels.network import First
from resnext.kernels.tiles import ConvShape, ProductShape, conv_choices, product_choices
from resnext.runtimes.pytorch import fused

DEVICE = "cuda"
DTYPES = [torch.float16, torch.bfloat16]
#: Batch, channels, width of a group, height, columns.
CONVS = [(1, 64, 4, 7, 5), (9, 128, 8, 13, 27), (3, 64, 16, 1, 1), (5, 96, 32, 14, 14)]
CONVS += [(2, 128, 64, 56, 56), (7, 64, 4, 1, 9), (65, 32, 8, 7, 7)]
#: Batch, inputs, outputs, height, columns.
PRODUCTS = [(1, 64, 128, 7, 5), (9, 128, 96, 13, 27), (3, 16, 16, 1, 1), (33, 256, 512, 7, 7)]
#: Elements around an output that no kernel may touch.
GUARD = 4096


def session_obstacle() -> str | None:
    finding = available("torch-fused")
    return None if finding is None else str(finding)


NO_SESSION = session_obstacle()
needs_session = pytest.mark.skipif(NO_SESSION is not None, reason=str(NO_SESSION))


def seeded(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(sum(shape))
    drawn = torch.randn(shape, generator=generator, device=DEVICE).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


class Poisoned:
    """A channels-last output of NaN amid a value that must stay."""

    def __init__(self, *shape: int, dtype: torch.dtype) -> None:
        batch, channels, height, width = shape
        size = batch * channels * height * width
        self._around = torch.full((GUARD + size + GUARD,), -7.0, dtype=dtype, device=DEVICE)
        flat = self._around[GUARD : GUARD + size].fill_(float("nan"))
        self.values = flat.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def check(self, exact: Tensor) -> None:
        """Written, like ``exact``, and nothing beyond."""
        assert bool((self._around[:GUARD] == -7).all()), "written before the output"
        assert bool((self._around[-GUARD:] == -7).all()), "written behind the output"
        eps = torch.finfo(self.values.dtype).eps
        got, scale = self.values.double(), float(exact.square().mean().sqrt())
        torch.testing.assert_close(got, exact, rtol=eps, atol=1e-4 * scale)


def exact_conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Float64 of packed weights, without cuDNN."""
    groups, width = weight.shape[0], weight.shape[3]
    unpacked = weight.permute(0, 4, 3, 1, 2).reshape(groups * width, width, 3, 3).double()
    with torch.backends.cudnn.flags(enabled=False):
        return functional.conv2d(
            x.double(), unpacked, bias.double(), stride, 1, groups=groups
        ).relu()


def conv_inputs(
    batch: int, channels: int, width: int, size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    x = seeded(batch, channels, *size, dtype=dtype)
    weight = seeded(channels // width, 3, 3, width, width, dtype=dtype) / (3 * width**0.5)
    return x, weight, seeded(channels, dtype=torch.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("index", range(len(CONVS)))
def test_a_grouped_convolution_is_float64s_at_every_width(index: int, stride: int) -> None:
    batch, channels, narrow, *size = CONVS[index]
    dtype = DTYPES[(index + stride) % 2]  # both at each stride
    shape = ConvShape(batch, channels, narrow, size[0], size[1], stride)
    # Each takes half a second to compile; all tiles are tried by the acceptance's own steps.
    choices = {choice.width: choice for choice in conv_choices(shape)}
    assert choices
    for choice in choices.values():
        x, weight, bias = conv_inputs(batch, channels, choice.width, (size[0], size[1]), dtype)
        y = Poisoned(batch, channels, shape.out_height, shape.out_columns, dtype=dtype)
        kernel = grouped_conv3x3.grouped_conv3x3_kernel
        grouped_conv3x3.launch(kernel, x, weight, bias, y.values, stride, choice.tile)
        y.check(exact_conv(x, weight, bias, stride))


@pytest.mark.parametrize("added", ["nothing", "shortcut", "projection", "strided projection"])
@pytest.mark.parametrize("index", range(len(PRODUCTS)))
def test_a_product_is_float64s(index: int, added: str) -> None:
    batch, inputs, outputs, *size = PRODUCTS[index]
    dtype = DTYPES[(index + len(added)) % 2]
    stride = 2 if added == "strided projection" else 1
    x = seeded(batch, inputs, *size, dtype=dtype)
    weight = seeded(inputs, outputs, dtype=dtype) / inputs**0.5
    bias = seeded(outputs, dtype=torch.float32)
    shortcut = projection = None
    exact = torch.einsum("nihw,io->nohw", x.double(), weight.double())
    exact += bias.double()[:, None, None]
    if added == "shortcut":
        shortcut = seeded(batch, outputs, *size, dtype=dtype)
        exact += shortcut.double()
    elif added != "nothing":
        # of odd sizes too: a stride of 2 leaves ceil(n / 2)
        shortcut = seeded(batch, 48, *(stride * side - stride + 1 for side in size), dtype=dtype)
        projection = seeded(48, outputs, dtype=dtype) / 48**0.5
        strided = shortcut[:, :, ::stride, ::stride].double()
        exact += torch.einsum("nihw,io->nohw", strided, projection.double())
    projected = 0 if projection is None else 48
    shape = ProductShape(
        batch * size[0] * size[1], inputs, outputs, projected, shortcut=added == "shortcut"
    )
    first, *_, last = [*product_choices(shape)] * 2
    for tile in dict.fromkeys((first, last)):
        y = Poisoned(batch, outputs, *size, dtype=dtype)
        pointwise.launch(
            pointwise.pointwise_kernel,
            x,
            weight,
            bias,
            y.values,
            tile,
            shortcut=shortcut,
            projection=projection,
            stride=stride,
        )
        y.check(exact.relu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (112, 112), (2, 33)])
def test_the_pool_is_float64s(size: tuple[int, int], dtype: torch.dtype) -> None:
    x, bias = seeded(3, 64, *size, dtype=dtype), seeded(64, dtype=torch.float32)
    y = Poisoned(3, 64, *((side + 1) // 2 for side in size), dtype=dtype)
    pool.launch(pool.max_pool_kernel, x, bias, y.values)
    pooled = functional.max_pool2d(x.double(), 3, 2, 1) + bias.double()[:, None, None]
    y.check(pooled.relu())


Operator = Callable[[Tensor], Tensor]


def operators(dtype: torch.dtype) -> dict[str, Operator]:
    """Each operator as a function of a 2 x 64 x 9 x 9 input."""
    _, weight, bias = conv_inputs(2, 64, 32, (9, 9), dtype)
    matrix = seeded(64, 64, dtype=dtype) / 8
    (conv, *_), (product, *_) = (
        conv_choices(ConvShape(2, 64, 32, 9, 9, 1)),
        product_choices(ProductShape(162, 64, 64)),
    )
    return {
        "conv": lambda x: ops.grouped_conv3x3(x, weight, bias, 1, list(conv.tile)),
        "product": lambda x: ops.pointwise(x, matrix, bias, list(product), x),
        "pool": lambda x: ops.max_pool(x, bias),
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv", "product", "pool"])
def test_what_is_not_finite_is_carried(name: str, value: float) -> None:
    operator = operators(torch.float16)[name]
    x = seeded(2, 64, 9, 9, dtype=torch.float16)
    clean = operator(x)
    x[1, 3, 4, 4] = value
    y = operator(x)
    assert not bool(y[1].isfinite().all())
    assert bool(torch.equal(y[0], clean[0]))
    if np.isnan(value):
        assert bool(y[1].isnan().any())


@pytest.mark.parametrize("name", ["conv", "product", "pool"])
def test_a_captured_operator_follows_its_input(name: str) -> None:
    operator = operators(torch.float16)[name]
    inputs = [seeded(2, 64, 9, 9, dtype=torch.float16) * scale for scale in (1, -1, 0.5)]
    want = [operator(x) for x in inputs]
    assert not bool(torch.equal(want[0], want[1]))
    x = inputs[0].clone(memory_format=torch.preserve_format)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operator(x)
    for given, wanted in zip(inputs, want, strict=True):
        x.copy_(given)
        y.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert bool(torch.equal(y, wanted))


@needs_session
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_session_is_float64s_at_every_batch(
    precision: Precision, weights: Weights, images: Any, reference: Any
) -> None:
    options = SessionOptions(device="cuda", precision=precision)
    with open_session(weights, "torch-fused", options=options) as session:
        for batch in (1, 3, 8, 64, 256):  # with one network's tiles, untried
            logits = session.run({"input": images[:batch]})["logits"][: len(reference)]
            outcome = compare(
                reference[:batch],
                logits,
                precision=precision,
                dtype=session.outputs[0].dtype,
            )
            assert outcome.passed, outcome.failures
        delivered = session.delivered()
    assert delivered.notes["kernels"].startswith("16 of 16 grouped convolutions")


@needs_session
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rows_of_a_batch_are_independent(
    precision: Precision, weights: Weights, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two batch sizes are bound: their tiles would take longer to time than all else here.
    monkeypatch.setattr(fused, "timed_tiles", lambda *_: nullcontext(First()))
    options = SessionOptions(device="cuda", precision=precision)
    with open_session(weights, "torch-fused", options=options) as session:
        outcome = session_integrity(
            session, images[:13], ranges=None, numerics=precision, sizes=(2, 8, 33)
        )
    assert outcome.passed, outcome.failures


@needs_session
def test_tuned_tiles_in_a_graph_give_what_plain_launches_of_untried_ones_give() -> None:
    small = load_weights("digits")  # few layers: every tile of each is compiled and timed
    images = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    outputs = []
    for graph, bound in itertools.product((True, False), repeat=2):
        options = SessionOptions(device="cuda", precision="fp16", cuda_graph=graph)
        with open_session(small, "torch-fused", options=options) as session:
            if bound:
                ready = session.bind({"input": images})
                assert ready.boundary == ("graph" if graph else "device")
                ready.enqueue()
                ready.synchronize()
                outputs.append(ready.fetch()["logits"])
            else:
                outputs.append(session.run({"input": images})["logits"])
    scale = np.abs(outputs[0]).max()
    for other in outputs[1:]:
        np.testing.assert_allclose(outputs[0], other, rtol=0, atol=0.01 * scale)
