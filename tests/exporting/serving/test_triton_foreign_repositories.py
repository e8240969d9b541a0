"""Repositories as Triton's users write them: nothing sound is called a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from resnext_export.triton.rules import check_repository

#: A tensor of an ONNX file: name, and shape with the batch; None for a rank that it does not say.
Tensor = tuple[str, list[int | str] | None]


def network(inputs: list[Tensor], outputs: list[Tensor]) -> bytes:
    """An ONNX file; what it computes is never run."""
    made = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (inputs, outputs)
    ]
    nodes = [helper.make_node("Identity", [inputs[0][0]], [name]) for name, _ in outputs]
    return bytes(
        helper.make_model(helper.make_graph(nodes, "net", made[0], made[1])).SerializeToString()
    )


def names(count: int) -> bytes:
    return "".join(f"class {index}\n" for index in range(count)).encode()


PLAIN = network([("x", ["N", 3])], [("y", ["N", 3])])
_TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
_STEP = """ensemble_scheduling { step [ { model_name: "net" model_version: -1
  input_map { key: "x" value: "X" } output_map { key: "y" value: "Y" } } ] }"""
_PIPE = """platform: "ensemble" max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""

#: Files of a repository by path; a configuration as text.
SOUND: dict[str, dict[str, str | bytes]] = {
    "no batches, and a reshape": {
        "densenet/config.pbtxt": """platform: "onnxruntime_onnx" max_batch_size : 0
            input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ]
                reshape { shape: [ 1, 3, 8, 8 ] } } ]
            output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 100 ]
                reshape { shape: [ 1, 100, 1, 1 ] } label_filename: "labels.txt" } ]""",
        "densenet/labels.txt": names(100),
        "densenet/1/model.onnx": network([("data_0", [1, 3, 8, 8])], [("fc6_1", [1, 100, 1, 1])]),
    },
    "labels of an output of three dimensions": {
        "net/config.pbtxt": """backend: "mxnet" output [ { name: "prob" data_type: TYPE_FP32
            dims: [ 5, 1, 1 ] label_filename: "labels.txt" } ]""",
        "net/labels.txt": names(5),
        "net/1/net.params": b"",
    },
    "labels with an odd separator in a name": {
        "net/config.pbtxt": """backend: "pytorch" max_batch_size: 4
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "l.txt" } ]""",
        "net/l.txt": "a\u2028b\nc".encode(),
        "net/1/model.pt": b"",
    },
    "labels of any number of rows": {
        "net/config.pbtxt": """backend: "pytorch" max_batch_size: 4
            output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, -1 ] label_filename: "l.txt" } ]
            """,
        "net/l.txt": names(7),
        "net/1/model.pt": b"",
    },
    "one number an image": {
        "score/config.pbtxt": """backend: "onnxruntime" max_batch_size: 8
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]""",
        "score/1/model.onnx": network([("x", ["N"])], [("y", ["N"])]),
    },
    "sequences with a state": {
        "seq/config.pbtxt": """platform: "onnxruntime_onnx" max_batch_size: 8
            sequence_batching {
              control_input [
                { name: "START" control [ { kind: CONTROL_SEQUENCE_START
                                            fp32_false_true: [ 0, 1 ] } ] },
                { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY
                                            fp32_false_true: [ 0, 1 ] } ] } ]
              state [ { input_name: "IN" output_name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ] }
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
            model_warmup [ { name: "w" batch_size: 1
              inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } }
              inputs { key: "START" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }
            } ]""",
        "seq/1/model.onnx": network(
            [("x", ["N", 3]), ("START", ["N", 1]), ("READY", ["N", 1]), ("IN", ["N", 1])],
            [("y", ["N", 3]), ("OUT", ["N", 1])],
        ),
    },
    "ragged batches": {
        "net/config.pbtxt": """backend: "onnxruntime" max_batch_size: 8 dynamic_batching { }
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] allow_ragged_batch: true } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
            batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "INDEX"
                            data_type: TYPE_FP32 source_input: "x" } ]""",
        "net/1/model.onnx": network([("x", ["N", 3]), ("INDEX", ["N"])], [("y", ["N", 3])]),
    },
    "an output whose rank the file does not say": {
        "net/config.pbtxt": 'backend: "onnxruntime" max_batch_size: 8' + _TENSORS,
        "net/1/model.onnx": network([("x", ["N", 3])], [("y", None)]),
    },
    "an engine for each kind of GPU": {
        "yolo/config.pbtxt": """platform: "tensorrt_plan" max_batch_size: 16
            input [ { name: "images" data_type: TYPE_FP32 dims: [ 3, 64, 64 ] } ]
            output [ { name: "output0" data_type: TYPE_FP32 dims: [ 84, 84 ] } ]
            instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] } ]
            cc_model_filenames [ { key: "8.0" value: "80.plan" },
                                 { key: "8.6" value: "86.plan" } ]""",
        "yolo/1/80.plan": b"",
        "yolo/1/86.plan": b"",
    },
    "an ensemble of a model whose tensors the server finds out": {
        "net/config.pbtxt": 'platform: "onnxruntime_onnx"',
        "net/1/model.onnx": PLAIN,
        "pipe/config.pbtxt": _PIPE + _STEP,
        "pipe/1/.gitkeep": b"",
    },
    "an ensemble without batches of a model with batches": {
        "net/config.pbtxt": 'backend: "onnxruntime" max_batch_size: 8' + _TENSORS,
        "net/1/model.onnx": PLAIN,
        "pipe/config.pbtxt": _PIPE.replace("size: 4", "size: 0").replace("[ 3 ]", "[ -1, 3 ]")
        + _STEP,
        "pipe/1/.gitkeep": b"",
    },
}

#: The same, but with a fault that what makes them sound must not hide: text to replace, and code.
FAULTS = [
    ("no batches, and a reshape", "[ 1, 3, 8, 8 ]", "[ 1, 3, 9, 8 ]", "tensor-dims"),
    ("no batches, and a reshape", "dims: [ 100 ]", "dims: [ 99 ]", "label-count"),
    ("one number an image", "shape: [ ]", "shape: [ 1 ]", "batch-in-dims"),
    ("labels of an output of three dimensions", "[ 5, 1, 1 ]", "[ 6, 1, 1 ]", "label-count"),
    ("sequences with a state", 'input_name: "IN"', 'input_name: "INN"', "tensor-name"),
    ("ragged batches", '"INDEX"', '"COUNT"', "tensor-name"),
    ("an engine for each kind of GPU", "86.plan", "89.plan", "model-file-missing"),
    ("an output whose rank the file does not say", '"onnxruntime"', '"tensorrt"'
     ' default_model_filename: "model.onnx"', "backend-differs"),
    ("an ensemble of a model whose tensors the server finds out", 'value: "X"', 'value: "Z"',
     "ensemble-tensor"),
    ("an ensemble without batches of a model with batches", "[ -1, 3 ]", "[ 3 ]", ""),
    ("an ensemble without batches of a model with batches", "[ -1, 3 ]", "[ -1, 4 ]",
     "ensemble-tensor"),
]  # fmt: skip


def written(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


@pytest.mark.parametrize("case", SOUND)
def test_a_sound_repository_has_no_findings(case: str, tmp_path: Path) -> None:
    findings = check_repository(written(tmp_path, SOUND[case])).findings
    assert [str(finding) for finding in findings] == []


@pytest.mark.parametrize(("case", "old", "new", "code"), FAULTS)
def test_a_fault_in_it_is_found(case: str, old: str, new: str, code: str, tmp_path: Path) -> None:
    files = {
        name: data.replace(old, new) if isinstance(data, str) else data
        for name, data in SOUND[case].items()
    }
    assert files != SOUND[case]
    found = {finding.code for finding in check_repository(written(tmp_path, files)).findings}
    assert found == ({code} if code else set())


def test_a_repository_without_any_configuration_is_one(tmp_path: Path) -> None:
    checked = check_repository(written(tmp_path, {"net/1/model.onnx": PLAIN}))
    assert [(it.code, it.severity) for it in checked.findings] == [("config-missing", "warning")]
