"""Logs under data/engine_layers are TensorRT-RTX 1.7's own, built without a GPU and cut to a few
layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from resnext.artifact.records import EngineLayer
from resnext.errors import BadArtifact
from resnext.runtimes.trt.layers import layers_from_inspector, layers_from_log

LOGS = Path(__file__).parents[1] / "data" / "engine_layers"


def from_log(name: str) -> dict[str, EngineLayer]:
    return {layer.name: layer for layer in layers_from_log((LOGS / f"{name}.log").read_text())}


def inspected(*layers: Any) -> tuple[EngineLayer, ...]:
    return layers_from_inspector(json.dumps({"Layers": layers, "Bindings": ["input", "logits"]}))


def tensor(name: str, dtype: str, dims: list[int]) -> dict[str, Any]:
    return {
        "Name": name,
        "Dimensions": dims,
        "Datatype": dtype,
        "Format": "(NHWC) Channel major format",
    }


@pytest.mark.parametrize(
    ("log", "products", "others"),
    [
        (
            "float32",
            ["conv1_myl0_2", "__myl_CorrAddRelu_myl0_4", "__myl_FcAdd_myl0_25"],
            ["__myl_Move_myl0_1"],
        ),
        ("float16", ["conv1_myl0_2", "__myl_CorrAddRelu_myl0_7", "__myl_FcAddRelu_myl0_20"], []),
        (
            "float16_sm75",
            ["layer1.0.conv2_myl0_7", "fc_myl0_80"],
            ["__myl_ReshSlicReshAddRelu_myl0_8"],
        ),
        ("bfloat16", ["conv1_myl0_2"], ["__myl_Tran_myl0_1"]),
        ("int8", ["conv1_myl0_2", "layer1.0.conv3_myl0_8", "fc_myl0_11"], []),
        ("float8_e4m3fn", ["conv1_myl0_2", "fc_myl0_10"], []),
    ],
)
def test_a_layer_computes_in_the_type_of_its_data_and_weights(
    log: str, products: list[str], others: list[str]
) -> None:
    found = from_log(log)
    for name in products:
        assert found[name].dtype == log.removesuffix("_sm75")
        assert found[name].multiplies
    for name in others:
        assert not found[name].multiplies


def test_a_shortcut_or_a_scale_of_another_type_does_not_hide_the_int8_product() -> None:
    layer = from_log("int8")["layer1.0.conv3_myl0_8"]
    assert layer.inputs == ("int8 NHWC [-1,64,8,8]", "float16 NHWC [-1,64,8,8]")
    assert layer.dtype == "int8"
    inputs = [tensor("a", "Half", [1, 8, 4, 4]), tensor("b", "Int8", [1, 8, 4, 4])]
    constants = [tensor("scale", "Float", [1]), tensor("w", "Int8", [8, 8, 1, 1])]
    shortcut_first = {"Name": "conv", "LayerType": "correlation", "Inputs": inputs}
    assert inspected({**shortcut_first, "Constants": constants})[0].dtype == "int8"
    assert inspected(shortcut_first)[0].dtype == "float16"  # the weights are what told them apart


@pytest.mark.parametrize(
    ("data", "weights", "computed"),
    [
        (
            "Half",
            "Float",
            "float32",
        ),  # casts the data inside the kernel, as the __myl_CorrCast kernels do
        ("Float", "Half", "float16"),
        ("Half", "Int8", "float16"),  # weights that are only stored narrow
        ("Half", "FP8", "float16"),
        ("Int8", "Int8", "int8"),
    ],
)
def test_data_of_another_type_than_the_weights_is_cast_to_it(
    data: str, weights: str, computed: str
) -> None:
    inputs, constants = [tensor("a", data, [-1, 8, 4, 4])], [tensor("w", weights, [8, 8, 3, 3])]
    (found,) = inspected(
        {"Name": "x", "LayerType": "runtime_fusion", "Inputs": inputs, "Constants": constants}
    )
    assert found.dtype == computed


def test_a_cast_that_bears_the_name_of_a_convolution_is_no_product() -> None:
    cast = from_log("float16")["__myl_CastReplConc_myl0_1"]
    assert cast.nodes == ("node__to_copy", "conv1", "node_relu")
    assert (cast.dtype, cast.multiplies) == ("float32", False)
    bias = from_log("int8")["__myl_Add_myl0_12"]
    assert (bias.nodes, bias.dtype, bias.multiplies) == (("fc",), "float16", False)


def test_every_fact_of_a_layer_is_read_from_the_log() -> None:
    found = from_log("float32")
    assert list(found) == [
        "__myl_Move_myl0_1",
        "conv1_myl0_2",
        "__myl_CorrAddRelu_myl0_4",
        "layer1.0.conv3_myl0_6",
        "__mye3438_myl0_7",
        "__myl_FcAdd_myl0_25",
    ]
    assert found["layer1.0.conv3_myl0_6"] == EngineLayer(
        name="layer1.0.conv3_myl0_6",
        kind="correlation",
        nodes=("layer1.0.conv3", "node_relu_3", "node_add_80"),
        dtype="float32",
        inputs=("float32 NHWC [-1,32,8,8]", "float32 NHWC [-1,64,8,8]"),
        outputs=("float32 NHWC [-1,64,8,8]",),
        tactic="__myelin_CASK_STUB",
    )
    assert found["__mye3438_myl0_7"].dtype == "unknown"  # a signal between streams
    assert found["__myl_FcAdd_myl0_25"].outputs == ("float32 Linear [-1,10]",)


def test_a_layer_survives_being_stored() -> None:
    for layer in from_log("float16").values():
        assert EngineLayer.model_validate_json(layer.model_dump_json()) == layer
    with pytest.raises(ValidationError):
        EngineLayer.model_validate({**layer.model_dump(), "precision": "fp16"})


#: One layer's facts as TensorRT 10 and 11 spell them.
TENSORS = [
    (
        "Channel major FP16 format where channel % 8 == 0",
        "Half",
        "(NHWC8) Channel major format where channel % 8 == 0",
    ),
    ("Row major linear FP32", "Float", "(Linear) Row major linear format"),
    ("Row major Int8 format", "Int8", "(Linear) Row major linear format"),
    ("Channel major FP32 format", "Float", "(NHWC) Channel major format"),
    (
        "Thirty-two wide channel vectorized row major Int8 format.",
        "Int8",
        "(NC/32HW32) Thirty-two wide channel vectorized format",
    ),
    ("Row major linear BFloat16 format", "BFloat16", "(Linear) Row major linear format"),
    ("Row major linear FP8 format", "FP8", "(Linear) Row major linear format"),
]


@pytest.mark.parametrize(("old", "dtype", "layout"), TENSORS)
def test_tensorrt_10_and_11_give_equal_layers(old: str, dtype: str, layout: str) -> None:
    common = {"Name": "x", "Location": "Device", "Dimensions": [-1, 64, 56, 56]}
    tens, elevens = (
        {**common, "Format/Datatype": old},
        {**common, "Datatype": dtype, "Format": layout},
    )
    rest = {
        "Name": "layer1.0.conv1 + node_relu_1",
        "LayerType": "CaskConvolution",
        "ParameterType": "Convolution",
        "Kernel": [1, 1],
        "Groups": 1,
        "Weights": {"Type": "Half", "Count": 8192},
        "TacticName": "some_kernel",
        "TacticValue": "0x1",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: layer1.0.conv1]\x1e[ONNX Layer: node_relu_1]",
    }
    ten = {"Layers": [{**rest, "Inputs": [tens], "Outputs": [tens]}], "Bindings": ["x", "y"]}
    eleven = {
        "Layers": [{**rest, "Inputs": [elevens], "Outputs": [elevens]}],
        "I/O Tensors": [{"Name": "x"}],
    }
    found = layers_from_inspector(json.dumps(ten))
    assert found == layers_from_inspector(json.dumps(eleven))
    assert found[0].dtype != "unknown"
    assert found[0].nodes == ("layer1.0.conv1", "node_relu_1")
    assert len(found[0].inputs[0].split()) == 3


def test_the_short_types_of_tensorrt_10_are_known_too() -> None:
    # Without an execution context TensorRT 10 gives the type alone, and it lists constants among
    # the inputs.
    layer = {
        "Name": "__myl_FcAdd_myl0_3",
        "LayerType": "kgen",
        "Metadata": "[ONNX Layer: fc]",
        "Inputs": [
            {"Name": "__mye131_dconst", "Dimensions": [1, 10], "Format/Datatype": "Float"},
            {"Name": "__mye116_dconst", "Dimensions": [256, 10], "Format/Datatype": "Half"},
            {"Name": "mean", "Dimensions": [-1, 256], "Format/Datatype": "Half"},
        ],
        "Outputs": [{"Name": "logits", "Dimensions": [-1, 10], "Format/Datatype": "Float"}],
    }
    (found,) = inspected(layer)
    assert (found.dtype, found.inputs, found.outputs) == (
        "float16",
        ("float16 [-1,256]",),
        ("float32 [-1,10]",),
    )
    assert found.multiplies


@pytest.mark.parametrize(
    ("tactic", "stored", "computed"),
    [
        (
            "sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16",
            "Float",
            "tfloat32",
        ),
        (
            "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckcrs_nhwc_tilesize",
            "Float",
            "tfloat32",
        ),
        (
            "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8",
            "Float",
            "float32",
        ),
        (
            "sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize64x128x64",
            "Half",
            "float16",
        ),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "BFloat16", "bfloat16"),
        (
            "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs",
            "Int8",
            "int8",
        ),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize128x64x64", "Float", "int8"),
        (
            "sm90_xmma_fprop_implicit_gemm_e4m3e4m3_e4m3f32_f32_nhwckrsc_nhwc",
            "FP8",
            "float8_e4m3fn",
        ),
        ("ampere_scudnn_128x64_relu_medium_nn_v1", "Float", "float32"),
        ("some_tf32_kernel", "Float", "tfloat32"),
        ("", "Half", "float16"),
    ],
)
def test_a_kernels_name_says_what_it_multiplies_in(tactic: str, stored: str, computed: str) -> None:
    layer = {
        "Name": "x",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor("a", stored, [1, 8, 4, 4])],
    }
    (found,) = inspected({**layer, "TacticName": tactic})
    assert (found.dtype, found.tactic) == (computed, tactic)


@pytest.mark.parametrize(
    "kind",
    [
        "correlation",
        "gemm",
        "CaskConvolution",
        "CaskGemmConvolution",
        "CaskConvActPool",
        "CudaDepthwiseConvolution",
        "MatrixMultiply",
        "CaskGemmMatrixMultiply",
        "FullyConnected",
    ],
)
def test_convolutions_and_matrix_products_are_known_by_their_kind(kind: str) -> None:
    assert inspected({"Name": "x", "LayerType": kind})[0].multiplies


@pytest.mark.parametrize(
    "kind", ["kgen", "Reformat", "maxpool", "signal", "PointWiseV2", "NoOp", "Conversion"]
)
def test_what_only_moves_or_adds_is_no_product(kind: str) -> None:
    assert not inspected({"Name": "__myl_ReshReplConcResh_myl0_6", "LayerType": kind})[0].multiplies


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
def test_node_names_are_read_whatever_stands_between_them(separator: str) -> None:
    metadata = separator.join(
        ["[ONNX Layer: conv1]", "[ONNX Layer: a + b]", "[ONNX Layer: conv1]", "[ONNX Layer: c]"]
    )
    assert inspected({"Name": "x", "Metadata": metadata})[0].nodes == ("conv1", "a", "b", "c")
    raw = (  # control characters that JSON would escape
        f'{{"Layers": [{{"Name": "x", "Metadata": "{metadata}"}}]}}'
    )
    assert layers_from_inspector(raw)[0].nodes == ("conv1", "a", "b", "c")
    line = (
        "Name: x, LayerType: gemm, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata:"
        f" {metadata}"
    )
    assert layers_from_log(f"Engine Layer Information:\nLayers:\n{line}\n")[0].nodes == (
        "conv1",
        "a",
        "b",
        "c",
    )


def test_the_log_of_tensorrt_10_is_read() -> None:
    line = (
        "Name: conv1 + node_relu, LayerType: CaskConvolution, Inputs: [ { Name: input, Location:"
        " Device, Dimensions: [6,256,120,184], Format/Datatype: Channel major FP32 format where"
        " channel % 4 == 0 }], Outputs: [ { Name: relu, Location: Device, Dimensions:"
        " [6,128,120,184], Format/Datatype: Channel major FP32 format where channel % 4 == 0 }],"
        ' ParameterType: Convolution, Kernel: [1,1], Weights: {"Type": "Float", "Count": 9},'
        " HasReLU: 1, TacticName: sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc,"
        " TacticValue: 0x9d, StreamId: 0, Metadata: [ONNX Layer: conv1]\x1e[ONNX Layer: node_relu]"
    )
    (layer,) = layers_from_log(f"Layers:\n{line}\n\nBindings:\ninput\nrelu")
    assert layer == EngineLayer(
        name="conv1 + node_relu",
        kind="CaskConvolution",
        nodes=("conv1", "node_relu"),
        dtype="tfloat32",
        inputs=("float32 NHWC4 [6,256,120,184]",),
        outputs=("float32 NHWC4 [6,128,120,184]",),
        tactic="sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc",
    )


def test_an_engine_that_was_built_without_detail_has_unknown_types() -> None:
    (named,) = inspected("conv1 + node_relu")
    assert (named.name, named.dtype, named.nodes) == ("conv1 + node_relu", "unknown", ())
    (logged,) = layers_from_log((LOGS / "names_only.log").read_text())
    assert (logged.kind, logged.name, logged.dtype) == (
        "Myelin",
        "{ForeignNode[fc.bias...fc_1]}",
        "unknown",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Layers:",
        "[1, 2]",
        "{}",
        '{"Layers": 3}',
        '{"Layers": [3]}',
        '{"Layers": [{"LayerType": "gemm"}]}',
        '{"Layers": [{"Name": 5}]}',
        '{"Layers": [{"Name": "x", "Inputs": [7]}]}',
        '{"Layers": [{"Name": "x", "Inputs": [{"Name": "a", "Dimensions": ["wide"]}]}]}',
        '{"Layers": ["x"',
    ],
)
def test_what_the_inspector_cannot_have_said_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadArtifact) as raised:
        layers_from_inspector(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no list of layers"),
        ("Engine generation completed in 0.1 seconds.", "no list of layers"),
        ("Layers:\nName: x, LayerType: gemm, Inputs: 3", "unknown way"),
    ],
)
def test_a_log_without_layers_that_can_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        layers_from_log(text)
