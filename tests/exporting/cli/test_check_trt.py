"""The acceptance test for any ONNX file: every node that TensorRT refuses, why, and exit codes that
CI can use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from resnext.artifact.files import Artifact
from resnext.errors import NoKernel
from resnext.runtimes.trt import library as trt_library
from resnext.runtimes.trt.library import Library, TensorRT, TensorRTRTX
from resnext_export.cli.export import main
from resnext_export.tensorrt import acceptance

#: An input: its name and shape.
Input = tuple[str, Sequence[int | str]]
IMAGE: Input = ("x", ("N", 4, 8, 8))


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Input] = (IMAGE,),
    weights: Any = np.float32,
) -> Path:
    """A model whose output is ``y`` and whose only weight is ``w``, a 3x3 convolution of 4
    channels.
    """
    values = np.ones((4, 4, 3, 3), weights)
    graph = helper.make_graph(
        list(nodes),
        "planted",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
            for name, shape in inputs
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def conv(given: str, to: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [given, "w"], [to], name, pads=[1] * 4)


def node(operator: str, given: str, to: str, name: str) -> onnx.NodeProto:
    return helper.make_node(operator, [given], [to], name)


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["check-trt", *map(str, arguments)], prog_name="resnext-export")


def error(result: Result) -> str:
    assert "Traceback" not in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def rows(result: Result) -> list[list[str]]:
    """Cells of the printed findings; the reason, which has spaces, is the last."""
    return [
        line.split(maxsplit=4)
        for line in result.stdout.splitlines()
        if line.startswith(("refused", "warning"))
    ]


# ---- accepted


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(
        tmp_path / "good.onnx", [conv("x", "a", "first"), node("Relu", "a", "y", "second")]
    )


def test_a_good_file_is_accepted_with_what_its_products_compute_in(
    rtx: Library, good: Path
) -> None:
    result = check(good)
    assert result.exit_code == 0, result.output
    assert f"accepted  {good}: 2 nodes, engine of " in result.stdout
    assert f"by TensorRT-RTX {rtx.version}\n" in result.stdout
    assert (
        "products  1 in float32 (convolutions and matrix products, after fusion)\n" in result.stdout
    )
    assert result.stderr == ""
    assert [path.name for path in good.parent.iterdir()] == ["good.onnx"]


@pytest.mark.usefixtures("rtx")
def test_products_are_counted_by_type(tmp_path: Path) -> None:
    nodes = [
        conv("x", "a", "full"),
        helper.make_node("Cast", ["a"], ["b"], "down", to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["w"], ["v"], "narrow", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["b", "v"], ["c"], "half", pads=[1] * 4),
        helper.make_node("Cast", ["c"], ["y"], "up", to=TensorProto.FLOAT),
    ]
    result = check(write(tmp_path / "mixed.onnx", nodes))
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("products")]
    assert "float16" in line


@pytest.mark.usefixtures("rtx")
def test_an_artifacts_folder_is_taken_for_its_file(digits_artifact: Artifact) -> None:
    result = check(digits_artifact.directory)
    assert result.exit_code == 0, result.output
    assert f"accepted  {digits_artifact.path}: " in result.stdout
    assert "products  14 in float32 " in result.stdout


def test_an_engine_is_no_file_to_check(engine: Artifact) -> None:
    result = check(engine.directory)
    assert result.exit_code == 2
    assert "holds an engine already" in error(result)


@pytest.mark.usefixtures("rtx")
def test_several_inputs_may_leave_their_batch_open(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["a"], "sum"), conv("a", "y", "conv")]
    path = write(tmp_path / "two.onnx", nodes, [IMAGE, ("z", ("N", 4, 8, 8))])
    assert check(path, "--batch", "2:4:8").exit_code == 0
    assert check(path, "--batch", "3").exit_code == 0


@pytest.mark.usefixtures("rtx")
def test_a_file_without_open_dimensions_needs_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "fixed.onnx", [conv("x", "y", "conv")], [("x", (2, 4, 8, 8))])
    assert check(path).exit_code == 0


def test_the_findings_as_json_are_alone_on_stdout(rtx: Library, good: Path) -> None:
    result = check(good, "--json", "-", "--target", "sm_89")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["file"], facts["library"], facts["version"]) == (
        str(good),
        "TensorRT-RTX",
        rtx.version,
    )
    assert (facts["accepted"], facts["nodes"], facts["findings"]) == (True, 2, [])
    assert facts["engine_size_bytes"] > 1000
    assert facts["build_s"] > 0
    assert "float32" in {layer["dtype"] for layer in facts["layers"]}


# ---- refused


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    nodes = [
        conv("x", "a", "fine"),
        node("Nonsense", "a", "b", "first.bad"),
        node("Relu", "b", "c", "between"),
        node("Det", "c", "d", "second.bad"),
        node("Rubbish", "d", "y", "third.bad"),
    ]
    return write(tmp_path / "unsupported.onnx", nodes)


def test_every_unsupported_node_is_listed(rtx: Library, unsupported: Path) -> None:
    result = check(unsupported)
    assert result.exit_code == 1
    assert [row[:4] for row in rows(result)] == [
        ["refused", "parse", "first.bad", "Nonsense"],
        ["refused", "parse", "second.bad", "Det"],
        ["refused", "parse", "third.bad", "Rubbish"],
    ]
    assert rows(result)[0][4].startswith("TensorRT does not know this operator")
    assert rows(result)[1][4].startswith("TensorRT does not support this operator")
    said = error(result)
    assert (
        f"TensorRT-RTX {rtx.version} refuses {unsupported} at node 'first.bad': TensorRT does not"
        " know" in said
    )


@pytest.mark.usefixtures("rtx")
def test_what_is_refused_is_in_the_json_too(unsupported: Path, tmp_path: Path) -> None:
    result = check(unsupported, "--json", tmp_path / "found.json")
    assert result.exit_code == 1
    assert rows(result)
    facts = json.loads((tmp_path / "found.json").read_text())
    assert (facts["accepted"], facts["nodes"], facts["engine_size_bytes"], facts["layers"]) == (
        False,
        5,
        None,
        [],
    )
    assert [found["node"] for found in facts["findings"]] == [
        "first.bad",
        "second.bad",
        "third.bad",
    ]
    alone = check(unsupported, "--json", "-")
    assert alone.exit_code == 1
    assert json.loads(alone.stdout) == facts


@pytest.mark.usefixtures("rtx")
def test_types_that_do_not_go_together_are_refused_at_their_node(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", "a", "fine"),
        conv("a", "b", "mixed"),
        node("Relu", "b", "y", "after"),
    ]
    result = check(write(tmp_path / "types.onnx", nodes, weights=np.float16))
    assert result.exit_code == 1
    assert [row[:4] for row in rows(result)] == [["refused", "parse", "mixed", "Conv"]]
    assert rows(result)[0][4].startswith(
        "IConvolutionLayer `input` and `kernel` must be of same type"
    )


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("content", [b"this is no model", b"", b"\x08\x0a\x12"])
def test_a_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(content)
    result = check(tmp_path / "no.onnx")
    assert result.exit_code == 1
    assert len(rows(result)) == 1
    assert "this is not an ONNX file, or it is cut short" in error(result)


@pytest.mark.usefixtures("rtx")
def test_a_file_that_is_cut_short_is_refused(digits_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(digits_artifact.path.read_bytes()[:-1000])
    result = check(tmp_path / "cut.onnx")
    assert result.exit_code == 1
    assert "this is not an ONNX file, or it is cut short" in error(result)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("name", ["odd[/b]name", "[red]node", ":smile:"])
def test_a_node_may_be_called_anything(name: str, tmp_path: Path) -> None:
    result = check(write(tmp_path / "odd.onnx", [node("Nonsense", "x", "y", name)]))
    assert result.exit_code == 1
    assert rows(result)[0][2] == name


@pytest.mark.usefixtures("rtx")
def test_a_target_that_has_no_kernel_for_a_layer_refuses_the_build(good: Path) -> None:
    product = [
        helper.make_node("Reshape", ["w", "flat"], ["v"], "flatten"),
        helper.make_node("MatMul", ["x", "v"], ["y"], "product"),
    ]
    path = write(good.parent / "product.onnx", product, [("x", ("N", 9))])
    model = onnx.load(str(path))
    model.graph.initializer.append(numpy_helper.from_array(np.array([9, 16]), "flat"))
    onnx.save(model, str(path))
    assert check(path, "--target", "sm_89").exit_code == 0
    result = check(path, "--target", "sm_75")  # no float32 products on Turing
    assert result.exit_code == 1
    assert rows(result)[0][:2] == ["refused", "build"]


def test_layers_without_a_kernel_are_listed_with_their_operators(
    rtx: Library, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NoKernel(
            f"TensorRT-RTX {rtx.version} cannot build the engine: no kernel", ("first", "(added)")
        )

    monkeypatch.setattr(acceptance, "engine_from_onnx", refuse)
    result = check(good, "--json", "-")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"] == [
        {
            "severity": "refused",
            "stage": "build",
            "node": name,
            "operator": operator,
            "reason": "no kernel",
        }
        for name, operator in (("first", "Conv"), ("(added)", ""))
    ]


# ---- calls that are off


def test_open_height_and_width_must_be_given(rtx: Library, tmp_path: Path) -> None:
    path = write(tmp_path / "open.onnx", [conv("x", "y", "conv")], [("x", ("N", 4, "H", "W"))])
    result = check(path)
    assert result.exit_code == 2
    assert "input 'x' has dynamic dimensions besides the batch; set them, for example" in error(
        result
    )
    assert error(result).endswith("--shape x=Nx4x224x224")
    assert check(path, "--shape", "x=Nx4x16x24").exit_code == 0
    assert check(path, "--shape", "x=2x4x16x24").exit_code == 0
    assert rtx.version


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "x=Nx5x16x16"], "--shape x=Nx5x16x16 does not fit the file's ?x4x?x?"),
        (["--shape", "x=Nx4x16"], "--shape x=Nx4x16 does not fit the file's ?x4x?x?"),
        (["--shape", "x=Nx4xHxW"], "'Nx4xHxW' is not a shape like Nx3x224x224 (N: the batch)"),
        (["--shape", "x=Nx4x0x16"], "'Nx4x0x16' is not a shape like"),
        (["--shape", "z=Nx4x16x16"], "the file has no input 'z'; it has x"),
        (["--shape", "Nx4x16x16"], "--shape 'Nx4x16x16' is not INPUT=NxCxHxW"),
        (["--batch", "1:8"], "an engine needs an upper limit: --batch 1:8:MAX"),
        (["--batch", "8:1:2"], "must satisfy 1 <= MIN <= OPT <= MAX"),
        (["--target", "sm_90"], "TensorRT-RTX has no target sm_90; known: "),
        (["--library", "tensorrt"], "unknown library 'tensorrt'; did you mean 'trt'?"),
    ],
)
def test_a_call_that_is_off_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "open.onnx", [conv("x", "y", "conv")], [("x", ("N", 4, "H", "W"))])
    result = check(path, *arguments)
    assert result.exit_code == 2, result.output
    assert said in error(result)


@pytest.mark.usefixtures("rtx")
def test_a_missing_file_is_exit_4(tmp_path: Path) -> None:
    result = check(tmp_path / "none.onnx")
    assert result.exit_code == 4
    assert f"no ONNX file at {tmp_path / 'none.onnx'}" in error(result)


def test_a_missing_library_is_exit_3(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRT, "version", None)
    monkeypatch.setattr(TensorRTRTX, "version", None)
    for library, package in (("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")):
        result = check(good, "--library", library)
        assert result.exit_code == 3
        assert f"pip install {package}" in error(result)


def test_a_library_that_does_not_load_is_exit_3(
    rtx: Library, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_module(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(trt_library, "import_module", no_module)
    result = check(good)
    assert result.exit_code == 3
    assert f"{rtx.title} is not installed (no Python package tensorrt_rtx)" in error(result)


def test_tensorrt_itself_needs_a_gpu(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRT, "version", "11.4.0.106")
    result = check(good, "--library", "trt")
    assert result.exit_code == 3
    assert "TensorRT builds on a GPU only" in error(result)


def test_another_library_than_the_one_that_was_asked_for_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRT, "version", None)
    (tmp_path / "model.onnx").write_bytes(b"")
    result = CliRunner().invoke(
        main, ["check-trt", str(tmp_path / "model.onnx"), "--library", "trt"]
    )
    assert result.exit_code == 3, result.output
    assert "TensorRT is not installed" in result.stderr


def test_control_characters_of_a_foreign_file_are_spelt_out() -> None:
    from resnext.cli.app import printable

    assert printable("evil\x1b[31m\nnode \u00e9") == "evil\\x1b[31m\\nnode \u00e9"


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_a_dimension_that_no_tensor_has_is_no_bug_of_ours(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "odd.onnx", [conv("x", "y", "only")], [("x", ("N", 4, 8, size))])
    result = check(path)
    assert result.exit_code in (1, 2), result.output
    error(result)


@pytest.mark.usefixtures("rtx")
def test_an_unknown_first_dimension_is_the_batch_however_it_is_written(tmp_path: Path) -> None:
    for size in (-1, "N"):
        path = write(tmp_path / "open.onnx", [conv("x", "y", "only")], [("x", (size, 4, 8, 8))])
        assert check(path).exit_code == 0


@pytest.mark.usefixtures("rtx")
def test_weights_that_lie_elsewhere_are_asked_for_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "outside.onnx", [conv("x", "y", "only")])
    proto = onnx.load(str(path))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "gone.bin"
    path.write_bytes(proto.SerializeToString())
    result = check(path)
    assert result.exit_code == 1
    assert "the values of tensor 'w' are in another file" in error(result)


@pytest.mark.usefixtures("rtx")
def test_a_foreign_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.onnx", [node("Quux", "x", "y", "evil\x1b[31m\nline")])
    result = check(path)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert len(rows(result)) == 1
