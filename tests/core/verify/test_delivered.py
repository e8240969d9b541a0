from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported import export_onnx, seeded_resnext50
from fakes.delivered import layer_share
from resnext.artifact.files import Artifact
from resnext.artifact.records import EngineLayer
from resnext.network.config import VARIANTS
from resnext.network.layers import layers, macs, module_of
from resnext.precision import Precision
from resnext.readers.files import file_sha256
from resnext.runtimes.delivered import delivered_from_engine
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Delivered, DeliveredLayer
from resnext.runtimes.trt.layers import layers_from_log
from resnext.verify.delivered import delivered_share, undelivered
from resnext.weights.spec import Weights, load_weights

CPU = SessionOptions(device="cpu")
R50 = VARIANTS["resnext50_32x4d"]
MACS = {layer.name: layer.macs for layer in layers(R50)}
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile on a CPU needs a C++ compiler"
)


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def artifacts(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("delivered")
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    return {
        precision: export_onnx(digits, folder / precision, precision=precision)
        for precision in precisions
    }


def all_in(dtype: str) -> dict[str, DeliveredLayer]:
    return {name: DeliveredLayer(name, "Conv", dtype, "cuda:0", (name,)) for name in MACS}


def share(by_name: dict[str, DeliveredLayer], *more: DeliveredLayer) -> float:
    return delivered_share(Delivered("cuda:0", (*by_name.values(), *more)), R50, "float16")


def test_one_convolution_in_float32_lowers_the_share_by_exactly_its_macs() -> None:
    by_name = all_in("float16")
    assert share(by_name) == 1.0
    by_name["layer1.0.conv2"] = replace(by_name["layer1.0.conv2"], dtype="float32")
    assert share(by_name) == (macs(R50) - MACS["layer1.0.conv2"]) / macs(R50)
    assert undelivered(Delivered("cuda:0", tuple(by_name.values())), R50, "float16") == (
        ("layer1.0.conv2", "float32"),
    )


def test_a_module_that_no_layer_names_is_not_delivered() -> None:
    by_name = all_in("float16")
    del by_name["layer4.2.conv3"]
    nameless = DeliveredLayer("fused", "Conv", "float16", "cuda:0")
    assert share(by_name, nameless) == (macs(R50) - MACS["layer4.2.conv3"]) / macs(R50)
    assert undelivered(Delivered("cuda:0", tuple(by_name.values())), R50, "float16") == (
        ("layer4.2.conv3", "unseen"),
    )
    assert share({}) == 0.0


def test_a_split_module_counts_only_where_all_parts_agree() -> None:
    by_name = all_in("float16")
    part = DeliveredLayer("part", "Conv", "float16", "cuda:0", ("layer2.1.conv2",))
    assert share(by_name, part) == 1.0
    other = replace(part, dtype="float32")
    assert share(by_name, part, other) == (macs(R50) - MACS["layer2.1.conv2"]) / macs(R50)
    got = undelivered(Delivered("cuda:0", (*by_name.values(), other)), R50, "float16")
    assert got == (("layer2.1.conv2", "float16+float32"),)


def test_layers_that_are_no_module_change_nothing() -> None:
    assert share(all_in("float16"), DeliveredLayer("pool", "MaxPool", "float32", "cuda:0")) == 1.0


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("conv1", "conv1"),
        ("fc", "fc"),
        ("layer3.5.conv2", "layer3.5.conv2"),
        ("layer1.0.downsample.0", "layer1.0.downsample.0"),
        ("layer1.0.conv2_quant", "layer1.0.conv2"),
        ("fused layer1.0.conv2", "layer1.0.conv2"),
        ("conv10", None),
        ("conv1.weight", None),
        ("conv1.x_DQ", None),
        ("layer1.0", None),
        ("layer1.0.relu", None),
        ("node_relu_1", None),
        ("", None),
    ],
)
def test_a_node_is_known_by_the_module_that_it_is_named_after(
    node: str, module: str | None
) -> None:
    assert module_of(node) == module


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_module_of_every_variant_is_known_by_its_name(variant: str) -> None:
    for layer in layers(VARIANTS[variant]):
        assert module_of(layer.name) == layer.name


def engine_layer(name: str, kind: str, dtype: str, *nodes: str) -> EngineLayer:
    return EngineLayer(
        name=name, kind=kind, nodes=nodes, dtype=dtype, inputs=(), outputs=(), tactic=""
    )


def test_a_cast_or_bias_beside_a_product_is_not_mistaken_for_it() -> None:
    delivered = delivered_from_engine(
        (
            engine_layer("__myl_CastReplConc_myl0_1", "kgen", "float32", "node__to_copy", "conv1"),
            engine_layer("conv1_myl0_2", "correlation", "float16", "conv1", "node_relu"),
            engine_layer("pool", "maxpool", "float16", "node_max_pool2d"),
            engine_layer("fc_myl0_80", "gemm", "float16", "fc"),
            engine_layer("__myl_AddCast_myl0_81", "kgen", "float32", "fc", "node__to_copy_1"),
        ),
        "cuda:0",
    )
    assert [(layer.op, layer.modules) for layer in delivered.layers] == [
        ("kgen", ()),
        ("Conv", ("conv1",)),
        ("maxpool", ()),
        ("Gemm", ("fc",)),
        ("kgen", ()),
    ]
    assert layer_share(delivered, "float16") == 1.0
    assert delivered.summary() == "2 float16 on cuda:0"


def test_a_product_in_a_kernel_of_an_unknown_kind_is_still_seen() -> None:
    fused = engine_layer("__myl_MulSum_myl0_0", "kgen", "float32", "fc")
    delivered = delivered_from_engine(
        (fused, engine_layer("both", "correlation", "float16", "conv1", "layer1.0.conv1")), "x"
    )
    assert [(layer.op, layer.modules) for layer in delivered.layers] == [
        ("Gemm", ("fc",)),
        ("Conv", ("conv1", "layer1.0.conv1")),
    ]
    assert ("fc", "float32") in undelivered(delivered, R50, "float16")


_BUILD = """
import sys
import tensorrt_rtx as trt

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        if "Name: " in message:
            print(message)

logger = Logger()
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
assert trt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
profile = builder.create_optimization_profile()
profile.set_shape("input", (1, 1, 8, 8), (8, 1, 8, 8), (64, 1, 8, 8))
config.add_optimization_profile(profile)
assert builder.build_serialized_network(network, config) is not None
"""


def rtx_engine(onnx_file: Path) -> Delivered:
    """Layers of an engine that TensorRT-RTX builds here, in a process of its own: its logger is
    process-wide.
    """
    pytest.importorskip("tensorrt_rtx")
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(onnx_file)], capture_output=True, text=True, check=True
    )
    return delivered_from_engine(layers_from_log(done.stdout), "cuda:0")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16")])
def test_an_engine_of_tensorrt_rtx_gets_the_precision_of_its_graph(
    precision: str, dtype: str, artifacts: dict[str, Artifact], digits: Weights
) -> None:
    delivered = rtx_engine(artifacts[precision].path)
    assert undelivered(delivered, digits.config, dtype) == ()
    assert delivered_share(delivered, digits.config, dtype) == 1.0
    assert delivered.summary() == f"14 {dtype} on cuda:0"


def test_an_island_of_fp16_in_a_float32_engine_is_found(
    artifacts: dict[str, Artifact], digits: Weights, tmp_path: Path
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(artifacts["fp32"].path)
    (index, conv), *_ = [
        (i, node) for i, node in enumerate(model.graph.node) if node.name == "layer2.0.conv2"
    ]
    for constant in model.graph.initializer:
        if constant.name in conv.input:
            values = numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    source, target = conv.input[0], conv.output[0]
    conv.input[0], conv.output[0] = "island_in", "island_out"
    del model.graph.value_info[:]
    model.graph.node.insert(
        index, helper.make_node("Cast", [source], ["island_in"], to=TensorProto.FLOAT16)
    )
    model.graph.node.insert(
        index + 2, helper.make_node("Cast", ["island_out"], [target], to=TensorProto.FLOAT)
    )
    onnx.save(model, tmp_path / "island.onnx")

    delivered = rtx_engine(tmp_path / "island.onnx")
    assert undelivered(delivered, digits.config, "float32") == (("layer2.0.conv2", "float16"),)
    size = next(layer.macs for layer in layers(digits.config) if layer.name == "layer2.0.conv2")
    total = macs(digits.config)
    assert delivered_share(delivered, digits.config, "float32") == (total - size) / total


@pytest.mark.parametrize(
    "name",
    [
        "torch",
        "ort-cpu",
        pytest.param("torch-compile", marks=[pytest.mark.exhaustive, needs_compiler]),
    ],
)
def test_every_runtime_here_delivers_all_of_float32(
    name: str, digits: Weights, artifacts: dict[str, Artifact]
) -> None:
    with open_session(
        artifacts["fp32"] if name == "ort-cpu" else digits, name, options=CPU
    ) as session:
        session.bind({"input": np.zeros((2, 1, 8, 8), np.float32)})
        delivered = session.delivered()
    assert undelivered(delivered, digits.config, "float32") == ()
    assert delivered_share(delivered, digits.config, "float32") == 1.0
    assert delivered_share(delivered, digits.config, "float16") == 0.0


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name", ["ort-cpu", "torch", pytest.param("torch-compile", marks=needs_compiler)]
)
def test_every_runtime_here_delivers_all_of_a_resnext50(name: str, tmp_path: Path) -> None:
    weights = seeded_resnext50()
    subject = (
        export_onnx(weights, tmp_path / "artifact", check=False) if name == "ort-cpu" else weights
    )
    with open_session(subject, name, options=CPU) as session:
        session.bind({"input": np.zeros((1, 3, 224, 224), np.float32)})
        delivered = session.delivered()
    assert undelivered(delivered, weights.config, "float32") == ()
    assert delivered_share(delivered, weights.config, "float32") == 1.0


def test_pytorch_delivers_fp16_and_onnx_runtimes_cpu_provider_does_not(
    digits: Weights, artifacts: dict[str, Artifact]
) -> None:
    with open_session(digits, "torch", options=replace(CPU, precision="fp16")) as session:
        assert delivered_share(session.delivered(), digits.config, "float16") == 1.0
    with open_session(artifacts["fp16"], "ort-cpu", options=CPU) as session:
        delivered = session.delivered()
    assert delivered_share(delivered, digits.config, "float16") < 1
    # Each is seen for what it is, and none is missing.
    assert {got for _, got in undelivered(delivered, digits.config, "float16")} == {"float32"}
    assert (
        delivered_share(delivered, digits.config, "float16")
        + delivered_share(delivered, digits.config, "float32")
        == 1.0
    )


def test_quantized_convolutions_of_onnx_runtime_are_seen(
    digits: Weights, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Once(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self.batches = iter(
                [{"input": np.random.default_rng(0).random((8, 1, 8, 8), np.float32)}]
            )

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = tmp_path / "quantized.onnx"
    kinds = {
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "quant_format": QuantFormat.QDQ,
    }
    quantize_static(artifacts["fp32"].path, path, Once(), **kinds)
    with open_session(artifacts["fp32"], "ort-cpu", options=CPU) as session:
        facts = {"file_sha256": file_sha256(path), "file_size_bytes": path.stat().st_size}
        manifest = artifacts["fp32"].manifest.model_copy(update={"file": path.name, **facts})
        session._provider.artifact = Artifact(tmp_path, manifest)  # type: ignore[attr-defined]
        delivered = session.delivered()
    assert [got for _, got in undelivered(delivered, digits.config, "float32")] == ["uint8"] * 14
