"""A package on the toolkit's kernels: what is traced for a GPU, and the faults that are refused
before anything is compiled.

CUDA tensors are shapes here (`fakes.cuda_tensors`): everything up to the compiler is PyTorch's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from triton.runtime.errors import OutOfResources

from fakes.cuda_tensors import Driver, Launch, launches, lowered, move, no_gpu, on_cuda
from fakes.inductor import code_for_gpu
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import PackageRecord
from resnext.errors import (
    GateFailed,
    MissingRequirement,
    ResnextError,
    SessionFailed,
    UsageError,
)
from resnext.findings import Finding
from resnext.kernels import ops, pointwise
from resnext.kernels.network import First, FusedNetwork, GroupedConv3x3, Pointwise, fused_network
from resnext.kernels.tiles import ConvChoice, ConvShape, conv_choices
from resnext.network.config import ResNeXtConfig
from resnext.network.layers import layers
from resnext.runtimes.buffers import HostMemory
from resnext.runtimes.delivered import delivered_from_package
from resnext.runtimes.pytorch import fused as session
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export.convert import pt2_from_torch as module
from resnext_export.convert.pt2_from_torch import pt2_from_torch
from resnext_export.convert.pt2_graph import check_as_requested, graph_layers, toolkit_kernels

ANY, EIGHT = BatchRange(min=1, opt=8, max=None), BatchRange.parse("8")
BATCHES = pytest.mark.parametrize("batch", [ANY, EIGHT], ids=["symbolic", "static"])
SIZES = (1, 2, 7, 8, 9, 64)


@pytest.fixture
def gpu() -> Iterator[None]:
    """CUDA tensors, of which nothing is computed."""
    with no_gpu():
        yield


@pytest.fixture(scope="module", autouse=True)
def untimed() -> Iterator[None]:
    """Without a GPU, the first tiles are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CudaMemory", HostMemory)
        patch.setattr(session, "timed_tiles", lambda *_: nullcontext(First()))
        yield


@pytest.fixture(scope="module")
def color() -> Weights:
    """Two blocks behind a stem with a pool."""
    config = ResNeXtConfig((1, 1), 8, 4, (32, 32), 3, 10, stem="imagenet", stem_channels=16)
    return load_weights("seeded:3", config)


def parts(weights: Weights, batch: BatchRange) -> tuple[nn.Module, FusedNetwork]:
    model, plain = module._network(weights, batch, "fp16", "fused")
    assert plain == ()
    fused = model.model
    assert isinstance(fused, FusedNetwork)
    return model.eval(), fused


def traced(model: nn.Module, weights: Weights, batch: BatchRange) -> torch.export.ExportedProgram:
    """What goes to the compiler of a GPU."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    move(model, mode)
    shape = (8, weights.config.in_channels, *weights.config.input_size)
    with torch.no_grad():
        return module._traced(model, on_cuda(torch.zeros(shape), mode), batch)


def check_launches(weights: Weights, batch: BatchRange) -> Counter[str]:
    """Hold every launch of a GPU's graph to the network's layers, and count the kernels."""
    model, fused = parts(weights, batch)
    program = traced(model, weights, batch)
    found = graph_layers(program)
    check_as_requested(program, found, weights.config, batch, "fp16", ())
    assert [layer.module for layer in found if not layer.fused] == ["conv1", "fc"]
    graph = lowered(program)
    targets = Counter(str(node.target) for node in graph.nodes if node.op == "call_function")
    assert targets["aten.convolution.default"] == 1  # the stem's
    assert targets["aten.addmm.default"] == 1  # the classifier
    assert not [target for target in targets if "batch_norm" in target]
    # Inductor fills the buffer of an aten.empty in another layout before the kernel writes it.
    assert "aten.empty.memory_format" not in targets
    done = launches(graph)
    assert targets["aten.empty_strided.default"] == len(done)
    assert {launch.mutated for launch in done} == {("y",)}  # or else inputs would be copied
    modules = iter(
        [part for part in fused.modules() if isinstance(part, GroupedConv3x3 | Pointwise)]
    )
    for launch in done:
        if launch.kernel != "max_pool_kernel":
            _check_launch(launch, next(modules), (8,) if batch.static else SIZES)
    assert next(modules, None) is None
    counts = Counter(launch.kernel for launch in done)
    assert dict(counts) == {f"{name}_kernel": n for name, n in toolkit_kernels(program).items()}
    return counts


def _check_launch(launch: Launch, part: GroupedConv3x3 | Pointwise, sizes: tuple[int, ...]) -> None:
    channels, height, width = launch.arguments["y"].meta["val"].shape[1:]
    tile: Any = part.choice.tile if isinstance(part, GroupedConv3x3) else part.tile
    for size in sizes:
        if isinstance(part, GroupedConv3x3):
            blocks = -(-width // tile.columns) * -(-height // tile.rows)
            programs = -(-size // tile.images) * blocks * (channels // part.choice.width)
        else:
            programs = -(-size * height * width // tile.pixels) * -(-channels // tile.outputs)
        assert launch.programs(size) == (programs, 1, 1), launch
    assert launch.options == {"num_warps": tile.warps, "num_stages": tile.stages}
    wanted = {name.upper(): value for name, value in tile._asdict().items()}
    names = {"IMAGES", "COLUMNS", "ROWS", "PIXELS"} & wanted.keys()
    assert {name: launch.arguments[name] for name in names} == {
        name: wanted[name] for name in names
    }


@pytest.mark.usefixtures("gpu")
def test_every_block_is_three_launches_with_our_tiles_and_grids(digits: Weights) -> None:
    counts = check_launches(digits, EIGHT)
    assert counts == {"grouped_conv3x3_kernel": 3, "pointwise_kernel": 6}


@pytest.mark.usefixtures("gpu")
def test_a_symbolic_batch_is_in_the_grids_and_a_stem_s_pool_is_a_launch(color: Weights) -> None:
    counts = check_launches(color, ANY)
    assert counts == {"grouped_conv3x3_kernel": 2, "pointwise_kernel": 4, "max_pool_kernel": 1}


def filled(x: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """A kernel's output, allocated so that Inductor writes it, too."""
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def unread(*_: object) -> Any:
    """Triton's driver where PyTorch cannot read the kernels."""
    raise RuntimeError("no target")


@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("place", "fault", "told"),
    [
        ((ops, "empty_output"), filled, "memory_format"),
        ((Driver, "get_current_target"), unread, "shortcut"),
        ((pointwise, "grid"), lambda *_: (7,), "grid=.7, 1, 1"),
    ],
    ids=["filled outputs", "copied inputs", "grids"],
)
def test_the_check_of_launches_sees(
    place: tuple[Any, str], fault: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, fault)
    weights = load_weights("seeded:3", ResNeXtConfig((1,), 8, 4, (8, 8), 3, 10, stem="small"))
    with pytest.raises(AssertionError, match=told):
        check_launches(weights, EIGHT)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("gpu")
@BATCHES
def test_resnext50_is_49_launches_a_stem_and_a_classifier(batch: BatchRange) -> None:
    counts = check_launches(load_weights("seeded", "resnext50_32x4d"), batch)
    assert counts == {"grouped_conv3x3_kernel": 16, "pointwise_kernel": 32, "max_pool_kernel": 1}


@pytest.mark.exhaustive
@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore")
@BATCHES
def test_the_code_for_a_gpu_calls_our_kernels_and_neither_fills_nor_copies_for_them(
    batch: BatchRange, color: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = parts(color, batch)
    program = traced(model, color, batch)
    code = code_for_gpu(program, tmp_path, monkeypatch)
    (tmp_path / "resnext.wrapper.cpp").write_text(code)
    found = module._kernels([tmp_path / "resnext.wrapper.cpp"])
    assert found == {**toolkit_kernels(program), "convolution": 1, "addmm_out": 1}
    module._check_called(toolkit_kernels(program), found)
    # Images to float16 in channels-last, the mean, logits to float32.
    assert len(inductor_s_own(code)) == 3


@pytest.mark.exhaustive
@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore")
def test_the_code_shows_that_a_kernel_s_output_is_filled_first(
    color: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why outputs are not allocated by ``torch.empty`` with a memory format."""
    monkeypatch.setattr(ops, "empty_output", filled)
    model, _ = parts(color, EIGHT)
    program = traced(model, color, EIGHT)
    found = inductor_s_own(code_for_gpu(program, tmp_path, monkeypatch))
    assert len(found) == 3 + sum(toolkit_kernels(program).values())


def inductor_s_own(code: str) -> list[str]:
    """Kernels that Inductor wrote, by their calls."""
    return re.findall(r"^\s+call_(triton_\w+)\(", code, re.MULTILINE)


def test_torch_compile_traces_the_network_as_one_graph(digits: Weights) -> None:
    fused = fused_network(load_model(digits), 2, torch.float16)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    images = torch.rand(2, 1, 8, 8).half()
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, backend=keep)(images)
    torch.testing.assert_close(compiled, fused(images), rtol=0, atol=0)
    (graph,) = graphs
    targets = Counter(str(node.target) for node in graph.graph.nodes)
    ours = {name: count for name, count in targets.items() if "resnext" in name}
    assert sum(ours.values()) == 9, targets


def leave(monkeypatch: pytest.MonkeyPatch, left: Callable[[ConvShape], bool]) -> None:
    """Let the kernels not take some grouped convolutions."""

    def choices(shape: ConvShape) -> list[ConvChoice]:
        return [] if left(shape) else conv_choices(shape)

    monkeypatch.setattr("resnext.kernels.network.conv_choices", choices)


# Faults that must be caught: before anything is compiled, and in the code.


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    """The same graph as for a GPU, traced with tensors that have values."""
    weights = load_weights("digits")
    model, _ = parts(weights, EIGHT)
    return module._traced(model, torch.zeros(8, 1, 8, 8), EIGHT)


def refuse(program: torch.export.ExportedProgram, weights: Weights, told: str) -> None:
    with pytest.raises(GateFailed, match=told) as caught:
        check_as_requested(program, graph_layers(program), weights.config, EIGHT, "fp16", ())
    assert len(str(caught.value).splitlines()) == 1


def test_the_graph_as_asked_passes(program: torch.export.ExportedProgram, digits: Weights) -> None:
    check_as_requested(program, graph_layers(program), digits.config, EIGHT, "fp16", ())
    assert toolkit_kernels(program) == {"grouped_conv3x3": 3, "pointwise": 6}


def test_a_block_on_another_kernel_without_notice_is_refused(
    digits: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, lambda shape: shape.channels == 64)
    model, plain = module._network(digits, EIGHT, "fp16", "fused")
    program = module._traced(model.eval(), torch.zeros(8, 1, 8, 8), EIGHT)
    assert plain == ("layer2.0.conv2",)
    found = graph_layers(program)
    check_as_requested(program, found, digits.config, EIGHT, "fp16", plain)  # told, it is right
    refuse(program, digits, "1 layers are not on the kernels .*, first layer2.0.conv2")
    with pytest.raises(GateFailed, match="11 layers are not on the kernels"):
        check_as_requested(program, found, digits.config, EIGHT, "fp16", None)


def test_a_lost_projection_is_refused(
    program: torch.export.ExportedProgram, digits: Weights
) -> None:
    found = tuple(one for one in graph_layers(program) if one.module != "layer1.0.downsample.0")
    with pytest.raises(GateFailed, match=r"lost or added 1 layers, first layer1\.0\.downsample"):
        check_as_requested(program, found, digits.config, EIGHT, "fp16", ())


@pytest.mark.parametrize(("dtype", "odd"), [(torch.bfloat16, 14), (torch.float32, 14)])
def test_another_element_type_is_refused(dtype: torch.dtype, odd: int, digits: Weights) -> None:
    fused = fused_network(load_model(digits), 8, dtype)
    name = str(dtype).removeprefix("torch.")
    program = module._traced(fused, torch.zeros(8, 1, 8, 8, dtype=dtype), EIGHT)
    refuse(program, digits, f"{odd} layers are not fp16, first conv1 with {name}")


def test_operators_off_the_gpu_are_kept_in_the_graph_and_leave_no_launch(
    program: torch.export.ExportedProgram,
) -> None:
    """Why the calls in the code are counted: an operator may compute by other means."""
    assert sum(toolkit_kernels(program).values()) == 9
    assert launches(lowered(program)) == []


# The record, with a stand-in for the compiler.

_CODE = """
template <typename x_type_>
static inline void call_{name}_kernel_{index}(
    const x_type_& x){{
}}
    call_{name}_kernel_{index}(buf3, m_weight, buf0, 512, 8, 16L, 1L, 1L, stream, kernels);
"""


def compiled(monkeypatch: pytest.MonkeyPatch, folder: Path, kernels: dict[str, int]) -> None:
    """A compiler whose code calls ``kernels``, on a machine that has what a package needs."""
    wrapper = folder / "resnext.wrapper.cpp"
    names = [name for name, count in kernels.items() for _ in range(count)]
    text = "".join(_CODE.format(name=name, index=index) for index, name in enumerate(names))
    wrapper.write_text(text + "    aoti_torch_cuda_convolution(buf1, m_conv1_weight);\n")
    monkeypatch.setattr(module, "refuse_if_not_compilable", lambda *_: None)
    monkeypatch.setattr(module, "_compiled", lambda *_: [wrapper])
    monkeypatch.setattr(module, "_target", lambda: ({}, ()))


def fused_record(weights: Weights, path: Path, **options: Any) -> PackageRecord:
    return pt2_from_torch(weights, EIGHT, path, precision="fp16", kernels="fused", **options)


@pytest.mark.parametrize(("baked", "dtype"), [(False, "float32"), (True, "uint8")])
def test_the_record_names_both_halves_of_a_product_and_counts_our_kernels(
    baked: bool, dtype: str, digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"grouped_conv3x3": 3, "pointwise": 6}
    compiled(monkeypatch, tmp_path, calls)
    record = fused_record(digits, tmp_path / "model.pt2", bake_preprocessing=baked)
    assert (record.kernels_from, record.inputs[0].dtype) == ("fused", dtype)
    assert {layer.module for layer in record.layers} == {
        layer.name for layer in layers(digits.config)
    }
    assert [layer.module for layer in record.layers if not layer.fused] == ["conv1", "fc"]
    assert record.kernels == {"convolution": 1, **calls}
    assert record.title().endswith(", fused kernels")
    notes = delivered_from_package(record, "cuda").notes
    assert notes["fused"] == "3 of 3 grouped convolutions"


def test_what_stayed_with_pytorch_is_delivered_by_name(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, lambda shape: shape.stride != 1)
    compiled(monkeypatch, tmp_path, {"grouped_conv3x3": 1, "pointwise": 6})
    notes = delivered_from_package(fused_record(digits, tmp_path / "model.pt2"), "cuda").notes
    assert notes["fused"] == "1 of 3 grouped convolutions, not layer2.0.conv2, layer3.0.conv2"


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        ({"grouped_conv3x3": 2, "pointwise": 6}, "grouped_conv3x3 2 times instead of 3"),
        ({"grouped_conv3x3": 3}, "pointwise 0 times instead of 6"),
    ],
)
def test_code_that_does_not_call_every_kernel_is_refused(
    calls: dict[str, int],
    told: str,
    digits: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled(monkeypatch, tmp_path, calls)
    with pytest.raises(GateFailed, match=told):
        fused_record(digits, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


# What is refused before the weights are read.


@pytest.mark.parametrize(
    ("precision", "device", "told"),
    [
        ("fp16", "cpu", "run on a GPU, not on cpu: use `device` cuda, or drop `kernels`"),
        ("fp32", "cuda", "compute in fp16, not in fp32: use `precision` fp16, or drop `kernels`"),
        ("bf16", "cuda", "made in fp32 or fp16, not in bf16"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused_with_the_fix(
    precision: Any, device: Any, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        module.refuse_if_not_compilable(precision, device, "fused")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"), SessionFailed, "pt2 failed: out of"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), MissingRequirement, "smaller `batch`"),
    ],
)
def test_a_fault_while_tiles_are_timed_is_one_line(
    error: Exception,
    kind: type[ResnextError],
    said: str,
    digits: Weights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> ConvChoice:
        raise error

    monkeypatch.setattr(First, "conv", fail)
    with pytest.raises(kind) as caught:
        module._network(digits, EIGHT, "fp16", "fused")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kernels", "hint"),
    [("inductor", "`device` cpu"), ("fused", "`device` cpu, and drop `kernels`")],
)
def test_without_a_gpu_no_hint_leads_to_another_refusal(
    kernels: Any, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Finding("no-torch-cuda", "there is no GPU", "compile elsewhere: `device` cpu")
    monkeypatch.setattr(module, "obstacle", lambda _: problem)
    with pytest.raises(MissingRequirement) as caught:
        module.refuse_if_not_compilable("fp16", "cuda", kernels)
    assert caught.value.hint == f"compile elsewhere: {hint}"


def test_a_machine_without_triton_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(MissingRequirement, match="pip install triton"):
        module.refuse_if_not_compilable("fp16", "cuda", "fused")


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_that_is_too_old_for_the_kernels_is_named(
    capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "obstacle", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    module.refuse_if_not_compilable("fp16", "cuda")
    if taken:
        module.refuse_if_not_compilable("fp16", "cuda", "fused")
        return
    with pytest.raises(MissingRequirement, match=r"8\.0, and Tesla T4 has 7\.5"):
        module.refuse_if_not_compilable("fp16", "cuda", "fused")
