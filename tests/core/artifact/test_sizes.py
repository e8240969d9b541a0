"""Graphs that ask for gigabytes: refused before a runtime opens them, and sound ones are not."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from exported import derive_onnx, export_onnx, export_openvino, relabeled
from resnext.artifact.files import Artifact, read_artifact, seal
from resnext.artifact.graph import onnx_graph
from resnext.artifact.manifest import BatchRange
from resnext.artifact.sizes import check_sizes
from resnext.errors import BadArtifact
from resnext.network.config import ResNeXtConfig, variant
from resnext.readers.files import file_sha256
from resnext.readers.ir_shapes import IrShapes
from resnext.readers.shapes import TensorShape, tensor_shapes
from resnext.runtimes.openvino.ir import READERS, read_ir, unpack_ovir
from resnext.runtimes.openvino.library import ov, shared_core
from resnext.runtimes.registry import open_session
from resnext.weights.spec import Weights, load_weights
from resnext_export.request import ExportRequest


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def digits(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(weights, tmp_path_factory.mktemp("digits") / "onnx", check=False)


@pytest.fixture(scope="module")
def digits_ir(
    digits: Artifact, weights: Weights, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return export_openvino(digits, weights, tmp_path_factory.mktemp("ir") / "a", check=False)


def resealed(artifact: Artifact, folder: Path, data: bytes) -> Artifact:
    """A copy of ``artifact`` with other bytes, and a manifest that fits them."""
    folder.mkdir()
    path = folder / artifact.manifest.file
    path.write_bytes(data)
    changes = {"file_sha256": file_sha256(path), "file_size_bytes": len(data)}
    seal(folder, artifact.manifest.model_copy(update=changes))
    return read_artifact(folder)


# ONNX: nodes between the sound logits, N x 10, and those that are returned.

_LONG = 40_000


def doubled(first: str, count: int, node: str) -> str:
    """``count`` nodes, each of which reads the one before twice."""
    names = [first, *(f"d{index}" for index in range(count))]
    pairs = itertools.pairwise(names)
    return " ".join(node.format(new=new, old=old) for old, new in pairs)


ONNX_FAULTS: dict[str, tuple[str, str]] = {
    # 6.4 GB, and nothing that the image changes
    "broadcast Add of constants": (
        "huge = Add (column, row) largest = ReduceMax <keepdims = 0> (huge)"
        " nothing = Mul (largest, zero) logits = Add (sound, nothing)",
        "node 'huge' (Add) makes a tensor of 1x40000x40000, 1600000000 values; at most 16777216"
        " are accepted for this network at batch 1",
    ),
    "broadcast Add of tensors": (
        "most = ReduceMax <keepdims = 0> (sound) a = Add (column, most) b = Add (row, most)"
        " huge = Add (a, b) largest = ReduceMax <keepdims = 0> (huge)"
        " nothing = Mul (largest, zero) logits = Add (sound, nothing)",
        "node 'huge' (Add) makes a tensor of 1x40000x40000",
    ),
    "outer product": (
        "most = ReduceMax <keepdims = 0> (sound) a = Add (column, most) b = Add (row, most)"
        " huge = MatMul (a, b) logits = Identity (sound)",
        "makes a tensor of 1x40000x40000",
    ),
    "Pad": (
        "huge = Pad (sound, pads) logits = Identity (sound)",
        "node 'huge' (Pad) makes a tensor of 40001x40010",
    ),
    "grows with the square of the batch": (
        "a = Unsqueeze (sound, ends) b = Transpose <perm = [3, 1, 2, 0]> (a)"
        " huge = Add (a, b) logits = Identity (sound)",
        "node 'huge' (Add) makes a tensor of 65537x10x1x65537",
    ),
    "ConvTranspose": (
        "wide = Cast <to = 1> (image)"
        " huge = ConvTranspose <strides = [9999, 9999]> (wide, kernel) logits = Identity (sound)",
        "makes a tensor of 1x1x69997x69997",
    ),
    "a chain that doubles": (
        doubled("column", 25, "{new} = Concat <axis = 1> ({old}, {old})")
        + " logits = Identity (sound)",
        "node 'd8' (Concat) makes a tensor of 1x20480000x1",
    ),
    "a chain that doubles dimensions": (
        "index = Cast <to = 7> (sound)"
        + doubled("index", 25, "{new} = Gather <axis = 0> ({old}, {old})")
        + " logits = Identity (sound)",
        "node 'd2' (Gather) has 9 dimensions, at most 8 are accepted",
    ),
    "many at once": (
        " ".join(f"l{index} = Add (line, column4)" for index in range(9))
        + " logits = Identity (sound)",
        "all tensors up to it have more values than are accepted",
    ),
    "patches of a large kernel": (
        "square = Pad (image, around) huge = QLinearConv (square, s, z, glass, s, z, s, z)"
        " logits = Identity (sound)",
        "multiplies patches of",
    ),
    "a size that is data": (
        "some = NonZero (sound) logits = Identity (sound)",
        "node 'some' (NonZero): its shape is not known before it runs",
    ),
    "a branch": (
        "yes = Constant <value_int = 1> () b = Cast <to = 9> (yes)"
        " logits = If (b) <then_branch = g () => (float[N, 10] t) { t = Identity (sound) },"
        " else_branch = h () => (float[N, 10] e) { e = Neg (sound) }>",
        "node 'logits' (If) contains a graph, which no export has",
    ),
    "many nodes": (
        " ".join(f"n{index} = Neg (sound)" for index in range(2000)) + " logits = Identity (sound)",
        "computes more than",
    ),
}
CONSTANTS: dict[str, NDArray[Any]] = {
    "column": np.zeros((1, _LONG, 1), np.float32),
    "row": np.zeros((_LONG, 1, 1), np.float32).reshape(1, 1, _LONG),
    "line": np.zeros((1, 4000), np.float32),
    "column4": np.zeros((4000, 1), np.float32),
    "zero": np.zeros((), np.float32),
    "pads": np.array([20_000, 20_000, 20_000, 20_000]),
    "around": np.array([0, 0, 500, 500, 0, 0, 500, 500]),
    "ends": np.array([2, 3]),
    "kernel": np.zeros((1, 1, 4, 4), np.float32),
    "glass": np.zeros((1, 1, 300, 300), np.uint8),
    "s": np.ones((), np.float32),
    "z": np.zeros((), np.uint8),
    "image": np.zeros((1, 1, 8, 8), np.uint8),
}


def planted(artifact: Artifact, folder: Path, nodes: str, *, lies: bool = False) -> Artifact:
    """A copy of ``artifact`` whose graph goes on with ``nodes`` from ``sound`` to ``logits``."""
    proto = onnx.load(artifact.path)
    (output,) = proto.graph.output
    for node in proto.graph.node:
        node.output[:] = ["sound" if name == output.name else name for name in node.output]
    text = f"g (float[N, 10] sound) => (float[N, 10] logits) {{ {nodes} }}"
    tail = onnx.parser.parse_graph(text)
    for node in tail.node:
        node.name = node.output[0]
        node.output[:] = [output.name if name == "logits" else name for name in node.output]
        if lies:
            proto.graph.value_info.append(
                onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [1, 1])
            )
    proto.graph.node.extend(tail.node)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in CONSTANTS.items()
        if re.search(rf"\b{name}\b", nodes)
    )
    return resealed(artifact, folder, proto.SerializeToString())


@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino", "onnx-reference"])
def test_no_runtime_opens_a_graph_that_is_too_large(
    runtime: str, digits: Artifact, tmp_path: Path
) -> None:
    nodes, says = ONNX_FAULTS["broadcast Add of constants"]
    artifact = planted(digits, tmp_path / "a", nodes)
    with pytest.raises(BadArtifact) as caught:
        open_session(artifact, runtime)
    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("fault", ONNX_FAULTS)
def test_a_graph_that_asks_for_gigabytes_is_refused(
    fault: str, digits: Artifact, tmp_path: Path
) -> None:
    nodes, says = ONNX_FAULTS[fault]
    with pytest.raises(BadArtifact) as caught:
        onnx_graph(planted(digits, tmp_path / "a", nodes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_shapes_that_the_file_declares_are_not_believed(digits: Artifact, tmp_path: Path) -> None:
    nodes, says = ONNX_FAULTS["broadcast Add of tensors"]
    with pytest.raises(BadArtifact) as caught:
        onnx_graph(planted(digits, tmp_path / "a", nodes, lies=True))
    assert says in str(caught.value)


def test_a_graph_that_is_a_little_larger_is_left_to_other_checks(
    digits: Artifact, tmp_path: Path
) -> None:
    onnx_graph(planted(digits, tmp_path / "a", "more = Add (line, column4) logits = Neg (sound)"))


def test_a_fixed_batch_is_no_excuse(digits: Artifact, tmp_path: Path) -> None:
    """The file says a million images, and the manifest any number."""
    proto = onnx.load(digits.path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1_000_000
    artifact = resealed(digits, tmp_path / "a", proto.SerializeToString())
    with pytest.raises(BadArtifact, match="input 'input' makes a tensor of 1000000x1x8x8"):
        open_session(artifact, "ort-cpu")


def test_a_network_that_does_not_fit_into_the_machine_is_refused(
    digits: Artifact, tmp_path: Path
) -> None:
    """A manifest is a stranger's word, too."""
    proto = onnx.load(digits.path)
    for dim, size in zip(
        proto.graph.input[0].type.tensor_type.shape.dim[2:], (1_000_000, 1_000_000), strict=True
    ):
        dim.dim_value = size
    artifact = resealed(digits, tmp_path / "a", proto.SerializeToString())
    config = dataclasses.replace(artifact.manifest.network, input_size=(1_000_000, 1_000_000))
    artifact = relabeled(artifact, tmp_path / "b", config=config)
    with pytest.raises(BadArtifact, match=r"1x1x1000000x1000000.* on this machine"):
        open_session(artifact, "ort-cpu")


# OpenVINO: an IR of its own making in place of the network's.


def _ops() -> Any:
    return ov.opset8


def _ints(*values: int) -> Any:
    return _ops().constant(np.array(values, np.int64))


def convolution(image: Any) -> Any:
    kernel = _ops().constant(np.ones((4, 1, 3, 3), np.float32))
    edge = [20_000, 20_000]
    return _ops().convolution(image, kernel, [1, 1], edge, edge, [1, 1])


def pooled(image: Any) -> Any:
    edge = [9_999, 9_999]
    return _ops().max_pool(image, [1, 1], [1, 1], edge, edge, [10_000, 10_000]).output(0)


def broadcast(image: Any) -> Any:
    del image
    return _ops().broadcast(_ops().constant(np.float32(0)), _ints(_LONG, _LONG))


def broadcast_shape(image: Any) -> Any:
    """With a billion numbers, 15 GB while OpenVINO reads the graph."""
    return _ops().reshape(image, _ops().broadcast(_ints(1), _ints(1_000)), special_zero=False)


def outer_sum(image: Any) -> Any:
    long = _ops().constant(np.zeros((1, _LONG), np.float32))
    tall = _ops().constant(np.zeros((_LONG, 1), np.float32))
    most = _ops().reduce_max(image, _ints(0, 1, 2, 3), keep_dims=False)
    return _ops().add(_ops().add(long, most), _ops().add(tall, most))


def square_of_the_batch(image: Any) -> Any:
    return _ops().add(image, _ops().transpose(image, _ints(1, 0, 2, 3)))


def chain(image: Any) -> Any:
    value = image
    for _ in range(25):
        value = _ops().concat([value, value], 1)
    return value


def dimensions(image: Any) -> Any:
    value = _ops().convert(image, "i64")
    for _ in range(4):
        value = _ops().gather(value, value, _ints(0))
    return value


def ranged(image: Any) -> Any:
    del image
    numbers = [_ops().constant(np.int64(value)) for value in (0, 1 << 30, 1)]
    return _ops().range(*numbers, "i64")


def tiled(image: Any) -> Any:
    return _ops().tile(image, _ints(1, 1, 9_999, 9_999))


def padded(image: Any) -> Any:
    return _ops().pad(image, _ints(0, 0, 9_999, 0), _ints(0, 0, 0, 9_999), "constant", 0.0)


IR_FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "Convolution": (convolution, "(Convolution) makes a tensor of 1x4x40006x40006"),
    "MaxPool": (pooled, "(MaxPool) makes a tensor of 1x1x10007x10007"),
    "Broadcast": (broadcast, "(Broadcast) makes a tensor of 40000x40000"),
    "Broadcast of a shape": (
        broadcast_shape,
        "(Reshape): its shape cannot be inferred: it depends",
    ),
    "Add": (outer_sum, "(Add) makes a tensor of 40000x40000"),
    "square of the batch": (square_of_the_batch, "(Add) makes a tensor of 65537x65537x8x8"),
    "Concat": (chain, "(Concat) makes a tensor of 1x"),
    "Gather": (dimensions, "dimensions, at most 8 are accepted"),
    "Range": (ranged, "(Range) makes a tensor of 1073741824"),
    "Tile": (tiled, "(Tile): its shape cannot be inferred: this type is not known here"),
    "Pad": (padded, "(Pad): its shape cannot be inferred: this type is not known here"),
}


def packed(make: Callable[[Any], Any], folder: Path) -> bytes:
    """A packed IR of one operator behind the input."""
    image = _ops().parameter([-1, 1, 8, 8], np.float32, name="input")
    model = ov.Model([make(image)], [image], "hostile")
    folder.mkdir()
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("model.bin", "model.xml"):
            archive.writestr(name, (folder / name).read_bytes())
    return data.getvalue()


@pytest.mark.parametrize("fault", IR_FAULTS)
def test_an_ir_that_asks_for_gigabytes_is_refused(
    fault: str, digits_ir: Artifact, tmp_path: Path
) -> None:
    make, says = IR_FAULTS[fault]
    artifact = resealed(digits_ir, tmp_path / "a", packed(make, tmp_path / "ir"))
    with pytest.raises(BadArtifact) as caught:
        open_session(artifact, "openvino")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("</net>", ""), "its graph is not XML"),
        (("<net>", "<!DOCTYPE x><net>"), "declarations"),
        (("</net>", "<layers/></net>"), "needs layers and edges"),
        (('size="36"', ""), "has no offset, size or shape"),
        (('shape="1,1,3,3"', 'shape="1,1,300,300"'), "does not have the values"),
        (('offset="0"', 'offset="5000"'), "lies outside the file"),
        (('from-layer="3"', 'from-layer="5"'), "reads what no layer before it writes"),
        (('to-layer="4"', 'to-layer="3"'), "two edges lead to port"),
        (('id="4" name', 'id="3" name'), "is there twice"),
        (('strides="2,2"', 'strides="0,0"'), "is not positive"),
        (('strides="2,2"', 'strides="2_0,2_0"'), "2_0 is no number"),
        (('id="4" name', 'id="04" name'), "04 is no number"),
        (('shape="?,1,8,8"', 'shape="?,1,-8,-8"'), "a size is negative"),
        (('type="ReduceMean"', 'type="If"'), "this type is not known here"),
    ],
)
def test_a_graph_that_is_no_irs_is_refused(change: tuple[str, str], says: str) -> None:
    graph = (Path(__file__).parents[2] / "fuzz/corpus/ir-sizes/pooled").read_text()
    weights = memoryview(np.arange(32).tobytes())
    list(IrShapes(graph.encode(), weights).shapes(1))
    assert change[0] in graph
    with pytest.raises(ValueError, match=says):
        list(IrShapes(graph.replace(*change, 1).encode(), weights).shapes(1))


# How much the check itself takes, in a process that has the libraries loaded.

_MEASURED = """
import resource, sys, time
from pathlib import Path
import onnx.shape_inference, onnxruntime
from resnext.artifact.files import read_artifact
from resnext.errors import BadArtifact
from resnext.runtimes.openvino.library import shared_core
from resnext.runtimes.registry import open_session
shared_core()
sound, *folders = map(Path, sys.argv[1:])
open_session(read_artifact(sound), "ort-cpu").close()
for folder in folders:
    artifact = read_artifact(folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        open_session(artifact, "ort-cpu" if artifact.manifest.kind == "onnx" else "openvino")
    except BadArtifact:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(grown // 1024, time.perf_counter() - started)
"""


def test_a_refusal_takes_little_memory_and_time(
    digits: Artifact, digits_ir: Artifact, tmp_path: Path
) -> None:
    hostile = [
        planted(digits, tmp_path / f"onnx{index}", ONNX_FAULTS[fault][0])
        for index, fault in enumerate(
            ("broadcast Add of constants", "a chain that doubles dimensions", "many nodes")
        )
    ]
    for index, make in enumerate((broadcast_shape, convolution, chain)):
        data = packed(make, tmp_path / f"packed{index}")
        hostile.append(resealed(digits_ir, tmp_path / f"ir{index}", data))
    folders = [str(artifact.directory) for artifact in (digits, *hostile)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *folders], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(hostile), done.stdout
    for grown_mib, seconds in lines:
        assert int(grown_mib) < 500
        assert float(seconds) < 5  # 0.02 on a quiet machine


# Sound graphs.


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_shapes_are_those_of_the_libraries(
    precision: Any, weights: Weights, tmp_path: Path
) -> None:
    batch = BatchRange.parse("4")
    parent = export_onnx(weights, tmp_path / "a", batch=batch, bake_preprocessing=True, check=False)
    if precision != "fp32":
        request = ExportRequest(precision=precision, runtime="openvino", calibration="random")
        parent = derive_onnx(parent, weights, tmp_path / "b", request, check=False)
    proto = onnx.load(parent.path)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    computed = {name for node in proto.graph.node for name in node.output}
    expected = sorted(
        tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.name in computed or value in inferred.input
    )
    assert sorted(tensor.shape for tensor in tensor_shapes(proto, 4)) == expected

    artifact = export_openvino(parent, weights, tmp_path / "ir", check=False)
    graph, values = unpack_ovir(artifact.read_writable(), "it")
    model, memory = read_ir(shared_core(), graph, values)
    expected = sorted(
        tuple(port.get_shape())
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Result")
        for port in node.outputs()
    )
    assert sorted(tensor.shape for tensor in IrShapes(graph, values.data).shapes(4)) == expected
    del model, memory


@pytest.mark.parametrize(
    "config",
    [
        # weights that are large beside the activations, and activations beside the weights
        ResNeXtConfig((1, 1), 2, 128, (32, 32), stem_channels=128),
        ResNeXtConfig((1,), 1, 1, (300, 400), num_classes=2, stem="small", stem_channels=1),
        pytest.param(
            dataclasses.replace(variant("resnext101_64x4d"), input_size=(64, 64)),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_networks_of_any_shape_are_accepted(config: ResNeXtConfig, tmp_path: Path) -> None:
    loaded = load_weights("seeded", config)
    parent = export_onnx(loaded, tmp_path / "a", bake_preprocessing=True, check=False)
    int8 = ExportRequest(precision="int8", runtime="openvino", calibration="random")
    merged = ExportRequest(merge_groups="256")
    artifacts = [derive_onnx(parent, loaded, tmp_path / "int8", int8, check=False)]
    if config.cardinality > 1:
        wide = derive_onnx(parent, loaded, tmp_path / "merged", merged, check=False)
        artifacts.append(derive_onnx(wide, loaded, tmp_path / "both", int8, check=False))
    for index, artifact in enumerate(artifacts):
        onnx_graph(artifact)
        ir = export_openvino(artifact, loaded, tmp_path / f"ir{index}", check=False)
        READERS["openvino"](shared_core(), ir)


def test_limits_grow_with_the_batch_alone(digits: Artifact) -> None:
    """The largest activation is accepted at any batch, and four of them are the limit."""
    config = variant("resnext50_32x4d")
    manifest = digits.manifest.model_copy(update={"config": config})
    largest = 64 * 112 * 112

    def shapes(values: int) -> Callable[[int], Sequence[TensorShape]]:
        return lambda batch: [TensorShape("it", (batch, values))]

    check_sizes(shapes(4 * largest), [], manifest)
    with pytest.raises(ValueError, match="at most 210456608768 are accepted"):
        check_sizes(shapes(4 * largest + 1), [], manifest)
