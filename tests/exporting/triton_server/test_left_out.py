"""What a server of ours cannot load is said to be unchecked, and is no fault of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_export.triton.environment import Installation
from resnext_export.triton.exam import examine_here
from resnext_export.triton.left_out import left_out, with_code
from resnext_export.triton.preprocess import preprocess_model
from resnext_export.triton.served import Served, read_model

_IN = "input { name: 'x' data_type: TYPE_FP32 dims: 3 }"
_OUT = "output { name: 'y' data_type: TYPE_FP32 dims: 3 }"
_STEPS = """ensemble_scheduling { step { model_name: 'a' model_version: -1
  input_map { key: 'x' value: 'X' } output_map { key: 'y' value: 'Y' } } }"""

#: Configurations by model, and why which are left out.
CASES: list[tuple[dict[str, str | None], dict[str, str]]] = [
    ({"a": f"backend: 'onnxruntime' {_IN} {_OUT}"}, {}),
    ({"a": "backend: 'python'"}, {}),
    ({"a": "backend: 'onnxruntme'"}, {}),  # the server says that there is none
    ({"a": None}, {"a": "no configuration"}),
    ({"a": "max_batch_size: 3"}, {"a": "names no backend"}),
    ({"a": "platform: 'pytorch_libtorch'"}, {"a": "no backend pytorch_libtorch"}),
    ({"a": f"backend: 'onnxruntime' {_IN}"}, {"a": "one input and one output"}),
    ({"a": f"backend: 'onnxruntime' {_IN} {_IN} {_OUT}"}, {"a": "one input and one output"}),
    (
        {"a": f"backend: 'onnxruntime' {_IN} {_OUT[:-1]} reshape {{ shape: [ 3, 1 ] }} }}"},
        {"a": "without reshape"},
    ),
    (
        {"a": f"backend: 'onnxruntime' {_IN} {_OUT} sequence_batching {{ state {{ }} }}"},
        {"a": "one input and one output"},
    ),
    (
        {
            "a": "backend: 'vllm'",
            "b": f"platform: 'ensemble' {_STEPS}",
            "c": f"platform: 'ensemble' {_STEPS}".replace("'a'", "'b'"),
            "d": "backend: 'python'",
        },
        {"a": "no backend vllm", "b": "its step a", "c": "its step b"},
    ),
]


def written(root: Path, configs: dict[str, str | None]) -> dict[str, Served]:
    found = {}
    for name, text in configs.items():
        (root / name / "1").mkdir(parents=True)
        if text is not None:
            (root / name / "config.pbtxt").write_text(text)
            found[name] = read_model(root / name)
    return {name: model for name, model in found.items() if isinstance(model, Served)}


@pytest.mark.parametrize(("configs", "expected"), CASES)
def test_what_cannot_run_here_is_left_out_with_the_reason(
    configs: dict[str, str | None], expected: dict[str, str], tmp_path: Path
) -> None:
    found = left_out(tmp_path, written(tmp_path, configs), {"python"}, {"onnxruntime"})
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert part in found[name]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("1/model.py", preprocess_model(), ""),
        ("1/model.py", preprocess_model() + "\n", "1/model.py is code"),
        ("1/model.py", "import os", "1/model.py is code"),
        ("libtriton_mine.so", "", "libtriton_mine.so is code"),
        ("env.tar.gz", "", "env.tar.gz is code"),
        ("1/model.onnx", "", ""),
    ],
)
def test_code_of_others_is_not_run_unasked(
    file: str, text: str, expected: str, tmp_path: Path
) -> None:
    written(tmp_path, {"a": "backend: 'python'"})
    (tmp_path / "a" / file).write_text(text)
    found = with_code(tmp_path)
    assert expected in found.get("a", "")
    assert bool(expected) == bool(found)


def test_a_server_is_not_even_started_for_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: dict[str, str | None] = {
        "a": "backend: 'python'",
        "b": f"platform: 'ensemble' {_STEPS}",
    }
    written(tmp_path, configs)
    (tmp_path / "a" / "1" / "model.py").write_text("raise SystemExit")
    monkeypatch.setattr(
        "resnext_export.triton.exam.served", lambda *_, **__: pytest.fail("started")
    )
    whole = Installation(Path("tritonserver"), tmp_path, None, None, (), {})
    assert [line.partition(":")[0] for line in examine_here(tmp_path, whole).unchecked] == [
        "a",
        "b",
    ]


@pytest.mark.exhaustive
def test_the_rest_is_loaded_into_the_real_core(installation: Installation, tmp_path: Path) -> None:
    configs: dict[str, str | None] = {
        "a": "backend: 'vllm'",
        "b": f"backend: 'python' {_IN} {_OUT}",
    }
    written(tmp_path, configs)
    (tmp_path / "b" / "1" / "model.py").write_text(
        "class TritonPythonModel:\n    def execute(self, requests): ...\n"
    )
    examined = examine_here(tmp_path, installation, code=True)
    assert [str(finding) for finding in examined.findings] == []
    assert examined.unchecked == [
        "a: not loaded here: this server has no backend vllm",
        "b: nothing beside it says what it should compute",
    ]
