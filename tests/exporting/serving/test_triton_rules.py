"""Each fault of a repository is found, alone and at its line; a clean repository has none."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadInput, MissingRequirement, UsageError
from resnext_export.cli.export import main
from resnext_export.triton import served, warmup
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.pbtxt import Word, lines_of, to_text
from resnext_export.triton.repository import write_repository
from resnext_export.triton.rules import check_repository

EARLIER = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts"


def replaced(old: str, new: str, model: str = "tiny") -> Callable[[Path], object]:
    """Change the first place in a configuration that is ``old``."""

    def plant(root: Path) -> None:
        path = root / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return plant


def removed(name: str) -> Callable[[Path], object]:
    def plant(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def grown(name: str) -> Callable[[Path], object]:
    """Add a byte to a file."""

    def plant(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes() + b"x")

    return plant


def renamed(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def manifest_changed(**values: Any) -> Callable[[Path], object]:
    """Change the manifest, and what the configuration says of its digest."""

    def plant(root: Path) -> None:
        path = root / "tiny" / "1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        replaced("resnext.manifest_sha256", "resnext.other")(root)

    return plant


#: A fault, how to plant it in a clean repository, and the findings: code, and where.
FAULTS: list[tuple[str, Callable[[Path], object], dict[str, str]]] = [
    (
        "misspelt field",
        replaced("max_batch_size", "max_batchsize"),
        {"config-syntax": "tiny/config.pbtxt:5:1"},
    ),
    (
        "unknown enumeration",
        replaced("TYPE_FP32", "TYPE_FLOAT"),
        {"config-syntax": "tiny/config.pbtxt:7:34"},
    ),
    (
        "wrong type",
        replaced("max_batch_size: 8", 'max_batch_size: "8"'),
        {"config-syntax": "tiny/config.pbtxt:5:17"},
    ),
    (
        "an enumeration's number that is none",
        replaced("data_type: TYPE_FP32", "data_type: 99"),
        {"tensor-dtype": "tiny/config.pbtxt:7", "warmup-dtype": "", "ensemble-tensor": ""},
    ),
    (
        "an enumeration's number that cannot be one",
        replaced("data_type: TYPE_FP32", "data_type: 99999999999999999999"),
        {"config-syntax": "tiny/config.pbtxt"},
    ),
    (
        "not UTF-8",
        lambda root: (root / "tiny" / "config.pbtxt").write_bytes(b'name: "\xff"'),
        {"config-syntax": "tiny/config.pbtxt"},
    ),
    ("no configuration", removed("tiny/config.pbtxt"), {"config-missing": "tiny"}),
    (
        "another name",
        replaced('name: "tiny"', 'name: "tina"'),
        {"name-differs": "tiny/config.pbtxt:2"},
    ),
    ("no version", removed("tiny/1"), {"version-missing": "tiny", "ensemble-model": "7"}),
    (
        "a version that is not there",
        replaced("versions: [ 1 ]", "versions: [ 1, 3 ]"),
        {"version-policy": "tiny/config.pbtxt:6"},
    ),
    (
        "model file of another name",
        replaced('"model.onnx"', '"net.onnx"'),
        {"model-file-missing": "tiny/config.pbtxt:4"},
    ),
    (
        "no Python model",
        renamed("tiny-preprocess/1/model.py", "tiny-preprocess/1/main.py"),
        {"model-file-missing": "tiny-preprocess/config.pbtxt"},
    ),
    ("no labels", removed("tiny/labels.txt"), {"label-file-missing": "tiny/config.pbtxt:8"}),
    ("a label too many", grown("tiny/labels.txt"), {"label-count": "tiny/config.pbtxt:8"}),
    (
        "another backend",
        replaced('"onnxruntime"', '"tensorrt"'),
        {"backend-differs": "tiny/config.pbtxt:3", "cpu-for-gpu": "tiny/config.pbtxt:9"},
    ),
    ("KIND_GPU", replaced("KIND_CPU", "KIND_GPU"), {"gpu-for-cpu": "tiny/config.pbtxt:9"}),
    ("altered manifest", grown("tiny/1/manifest.json"), {"artifact": "tiny/1"}),
    ("altered model", grown("tiny/1/model.onnx"), {"artifact": "tiny/1"}),
    (
        "manifest of another export",
        lambda root: (root / "tiny/1/manifest.json").write_text(
            (root / "tiny/1/manifest.json").read_text() + "\n"
        ),
        {"digest-differs": "tiny/config.pbtxt:17"},
    ),
    (
        "batch in the input's dims",
        replaced("dims: [ 1, 8, 8 ]", "dims: [ -1, 1, 8, 8 ]"),
        {"batch-in-dims": "tiny/config.pbtxt:7", "warmup-dims": "", "ensemble-tensor": ""},
    ),
    (
        "dynamic batching without batches",
        replaced("max_batch_size: 8", "max_batch_size: 0"),
        {"batching-off": "tiny/config.pbtxt:10", "tensor-dims": "", "warmup-batch": ""}
        | {"ensemble-batch": ""},
    ),
    (
        "more than the artifact takes",
        manifest_changed(batch={"min": 1, "opt": 2, "max": 4}),
        {"max-batch": "tiny/config.pbtxt:5"},
    ),
    (
        "fewer than the artifact takes",
        manifest_changed(batch={"min": 2, "opt": 2, "max": None}),
        {"max-batch": "tiny/config.pbtxt:5"},
    ),
    (
        "one size alone",
        manifest_changed(batch={"min": 8, "opt": 8, "max": 8}),
        {"fixed-batch": "tiny/config.pbtxt:5"},
    ),
    (
        "preferred beyond the largest",
        replaced("dynamic_batching {", "dynamic_batching {\n preferred_batch_size: [ 4, 9 ]\n"),
        {"preferred-batch": "tiny/config.pbtxt:11"},
    ),
    (
        "profiles of no engine",
        replaced("kind: KIND_CPU", 'kind: KIND_CPU profile: "0"'),
        {"profile": "tiny/config.pbtxt:9"},
    ),
    (
        "input of another name",
        replaced('input { name: "input"', 'input { name: "images"'),
        {"tensor-name": "tiny/config.pbtxt:7", "warmup-input": "", "ensemble-tensor": ""},
    ),
    (
        "output of another name",
        replaced('output { name: "logits"', 'output { name: "scores"'),
        {"tensor-name": "tiny/config.pbtxt:8", "ensemble-tensor": ""},
    ),
    (
        "output of another type",
        replaced('"logits" data_type: TYPE_FP32', '"logits" data_type: TYPE_FP16'),
        {"tensor-dtype": "tiny/config.pbtxt:8", "ensemble-tensor": ""},
    ),
    (
        "another number of classes",
        replaced("dims: [ 4 ]", "dims: [ 5 ]"),
        {"tensor-dims": "tiny/config.pbtxt:8", "label-count": "", "ensemble-tensor": ""},
    ),
    (
        "warm-up of more than fits",
        replaced("batch_size: 8\n  inputs", "batch_size: 9\n  inputs"),
        {"warmup-batch": ":39"},
    ),
    (
        "warm-up of nothing",
        replaced("batch_size: 8\n  inputs", "batch_size: 0\n  inputs"),
        {"warmup-batch": ":39"},
    ),
    (
        "warm-up of another input",
        replaced('inputs {\n    key: "input"', 'inputs {\n    key: "images"'),
        {"warmup-input": ":29"},
    ),
    (
        "warm-up of another type",
        replaced("value { data_type: TYPE_FP32", "value { data_type: TYPE_UINT8"),
        {"warmup-dtype": ":34"},
    ),
    (
        "warm-up of another size",
        replaced(
            "TYPE_FP32 dims: [ 1, 8, 8 ] input_data", "TYPE_FP32 dims: [ 1, 8, 9 ] input_data"
        ),
        {"warmup-dims": ":34"},
    ),
    ("no warm-up file", removed("tiny/warmup/batch-8.bin"), {"warmup-file-missing": ":42"}),
    ("warm-up file too long", grown("tiny/warmup/batch-8.bin"), {"warmup-size": ":42"}),
    (
        "warm-up of an ensemble",
        replaced("ensemble_sch", 'model_warmup { name: "a" }\nensemble_sch', "tiny-classify"),
        {"warmup-ensemble": "tiny-classify/config.pbtxt:8"},
    ),
    ("a step that is not there", removed("tiny-preprocess"), {"ensemble-model": ":10"}),
    (
        "a version of a step that is not there",
        replaced("model_version: 1", "model_version: 2", "tiny-classify"),
        {"ensemble-model": ":11"},
    ),
    (
        "an input that the step lacks",
        replaced('key: "PICTURE"', 'key: "JPEG"', "tiny-classify"),
        {"ensemble-tensor": "tiny-classify/config.pbtxt:12"},
    ),
    (
        "a tensor that nobody gives",
        replaced(
            '{ key: "input" value: "input" }\n    output_map { key: "logits"',
            '{ key: "input" value: "x" }\n    output_map { key: "logits"',
            "tiny-classify",
        ),
        {"ensemble-tensor": "tiny-classify/config.pbtxt:18"},
    ),
    (
        "an output that no step gives",
        replaced('output { name: "logits"', 'output { name: "classes"', "tiny-classify"),
        {"ensemble-tensor": "tiny-classify/config.pbtxt:7"},
    ),
    (
        "an ensemble of larger batches",
        replaced("max_batch_size: 8", "max_batch_size: 16", "tiny-classify"),
        {"ensemble-batch": "tiny-classify/config.pbtxt:4"},
    ),
]


def copy_of(repository: Path, folder: Path) -> Path:
    return Path(shutil.copytree(repository, folder / "models"))


def test_a_clean_repository_has_no_findings(repository: Path) -> None:
    checked = check_repository(repository)
    assert checked.models == ("tiny", "tiny-classify", "tiny-preprocess")
    assert (checked.findings, checked.unchecked) == ((), ())


@pytest.mark.parametrize(
    ("plant", "expected"),
    [pytest.param(plant, expected, id=name) for name, plant, expected in FAULTS],
)
def test_a_fault_is_found_at_its_line(
    plant: Callable[[Path], object], expected: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    root = copy_of(repository, tmp_path)
    plant(root)
    findings = check_repository(root).findings
    assert {finding.code for finding in findings} == expected.keys(), list(map(str, findings))
    for code, where in expected.items():
        places = [finding.where for finding in findings if finding.code == code]
        assert any(place.endswith(where) for place in places), (code, places)
    for finding in findings:
        assert finding.message
        assert finding.hint
        assert "\n" not in str(finding)


def planted(name: str) -> Callable[[Path], object]:
    return next(plant for title, plant, _ in FAULTS if title == name)


def test_everything_that_a_rule_finds_was_planted() -> None:
    """A code that no fault above or below shows is a check that nobody saw fail."""
    folder = Path(served.__file__).parent
    files = [*folder.glob("*_rules.py"), folder / "served.py"]
    sources = "".join(path.read_text() for path in files)
    codes = set(re.findall(r"Finding\(\s*\"([a-z-]+)\"", sources))
    seen = {code for _, _, expected in FAULTS for code in expected}
    assert codes - seen == {
        "full-batches",
        "label-batch",
        "model-file",
    }  # of other repositories, below
    assert seen <= codes
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "triton.md").read_text()
    assert [code for code in sorted(codes) if f"`{code}`" not in guide] == []


# ---- engines and OpenVINO


@pytest.fixture
def engines(
    engine: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An engine with two profiles."""

    def no_gpu(_: Artifact) -> None:
        raise MissingRequirement("there is no GPU here")

    monkeypatch.setattr(warmup, "open_session", no_gpu)
    options = RepositoryOptions(name="tiny")
    artifact = engine((1, 1, 1), (2, 16, 32))
    return write_repository(artifact, tmp_path / "engines", options).root


@pytest.mark.parametrize(
    ("old", "new", "code", "severity", "message"),
    [
        ("name", "name", "", "", ""),
        ('profile: [ "0", "1" ]', "", "profile", "warning", "use the first alone"),
        ('"0", "1"', '"0", "1", "2"', "profile", "refused", "has 2 profiles, numbered from 0, and"),
        ("max_batch_size: 32", "max_batch_size: 33", "max-batch", "refused", "up to 32"),
        ("KIND_GPU", "KIND_CPU", "cpu-for-gpu", "refused", "on a GPU alone"),
    ],
)
def test_profiles_are_all_used_and_no_others(
    old: str, new: str, code: str, severity: str, message: str, engines: Path
) -> None:
    replaced(old, new)(engines)
    found = check_repository(engines).findings
    assert [(each.code, each.severity) for each in found] == ([(code, severity)] if code else [])
    assert all(message in each.message for each in found)


@pytest.fixture
def openvino(tmp_path: Path) -> Path:
    artifact = read_artifact(EARLIER / "openvino-fp32")
    return write_repository(artifact, tmp_path / "ir", RepositoryOptions(name="tiny")).root


def test_openvino_loads_what_the_artifact_holds(openvino: Path) -> None:
    assert check_repository(openvino).findings == ()
    grown("tiny/1/model.bin")(openvino)
    (finding,) = check_repository(openvino).findings
    assert (finding.code, finding.where) == ("digest-differs", "tiny/1/model.bin")


def test_openvino_takes_full_batches_alone(openvino: Path) -> None:
    replaced("max_batch_size: 0", "max_batch_size: 8")(openvino)
    replaced("dims: [ -1, 1, 8, 8 ]", "dims: [ 1, 8, 8 ]")(openvino)
    replaced("dims: [ -1, 4 ]", "dims: [ 4 ]")(openvino)
    replaced("dims: [ 1, 1, 8, 8 ]", "dims: [ 1, 8, 8 ]")(openvino)
    replaced("KIND_CPU", "KIND_GPU")(openvino)
    found = check_repository(openvino).findings
    assert {each.code for each in found} == {"full-batches", "gpu-for-cpu"}
    padding = 'parameters { key: "ENABLE_BATCH_PADDING" value { string_value: "YES" } }'
    replaced("parameters {", padding + "parameters {")(openvino)
    assert {each.code for each in check_repository(openvino).findings} == {"gpu-for-cpu"}


def test_labels_of_several_images_in_one_request_are_found(fixed: Artifact, tmp_path: Path) -> None:
    root = write_repository(fixed, tmp_path / "models", RepositoryOptions(name="tiny")).root
    (root / "tiny" / "labels.txt").write_text("a\nb\nc\nd\n")
    replaced("dims: [ 2, 4 ]", 'dims: [ 2, 4 ] label_filename: "labels.txt"')(root)
    (finding,) = check_repository(root).findings
    assert (finding.code, finding.where) == ("label-batch", "tiny/config.pbtxt:8")


# ---- repositories that others wrote


def foreign(root: Path, config: str, inputs: int = 1) -> Path:
    """A network of several inputs, without a manifest."""
    version = root / "other" / "1"
    version.mkdir(parents=True)
    names = [f"x{index}" for index in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("Sum", names, ["y"])],
        "other",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 4, 4]) for n in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
    )
    onnx.save(helper.make_model(graph), str(version / "model.onnx"))
    (root / "other" / "config.pbtxt").write_text(config)
    return root


_PLATFORM = 'platform: "onnxruntime_onnx"\nmax_batch_size: 4\n'


@pytest.mark.parametrize(
    ("config", "codes", "unchecked"),
    [
        (_PLATFORM, set(), ("other: inputs, which the", "other: outputs, which the")),
        (
            _PLATFORM
            + """
            input [ { name: "x0", data_type: TYPE_FP32, dims: [ 3, 4, 4 ] },
                    { name: "x1", data_type: TYPE_FP32, dims: [ -1, 3, 4, 4 ] } ]
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] } ]""",
            {"batch-in-dims"},
            (),
        ),
        (
            _PLATFORM
            + """
            input { name: "x0" data_type: TYPE_FP32 dims: 3 dims: 4 dims: 4 }
            output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 4, 4 ] } ]
            dynamic_batching { preferred_batch_size: 4 }""",
            {"tensor-name", "preferred-batch"},
            (),
        ),
        (
            'backend: "tensorrt" max_batch_size: 4 default_model_filename: "model.onnx"'
            " input { name: 'x' data_type: TYPE_FP32 dims: [ -1, 3, 4, 4 ] }",
            {"batch-in-dims", "tensor-name", "backend-differs"},
            ("other: outputs",),
        ),
        ('backend: "dali" max_batch_size: 4', set(), ("other: the model file of backend dali",)),
    ],
)
def test_what_others_wrote_is_checked_as_far_as_the_files_say(
    config: str, codes: set[str], unchecked: tuple[str, ...], tmp_path: Path
) -> None:
    checked = check_repository(foreign(tmp_path, config, inputs=2))
    assert {finding.code for finding in checked.findings} == codes
    assert len(checked.unchecked) == len(unchecked)
    for line, start in zip(checked.unchecked, unchecked, strict=True):
        assert line.startswith(start)


def test_an_engine_without_a_manifest_is_said_to_be_unchecked(tmp_path: Path) -> None:
    config = """backend: "tensorrt" max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3, 4, 4 ] }"""
    root = foreign(tmp_path, config)
    renamed("other/1/model.onnx", "other/1/model.plan")(root)
    checked = check_repository(root)
    (finding,) = checked.findings
    assert (finding.code, finding.severity) == ("batch-in-dims", "warning")
    assert finding.where == "other/config.pbtxt:2"
    (line,) = checked.unchecked
    assert line.startswith("other/1: batches and tensors of model.plan, which has no manifest")


def test_a_file_that_is_no_onnx_is_found(tmp_path: Path) -> None:
    root = foreign(tmp_path, _PLATFORM)
    (root / "other" / "1" / "model.onnx").write_bytes(b"no such thing")
    (finding,) = check_repository(root).findings
    assert (finding.code, finding.where) == ("model-file", "other/1")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: root, BadInput, "no folder at"),
        (lambda root: root.mkdir(), BadInput, "there is no model in"),
        (lambda root: (root / "1").mkdir(parents=True), BadInput, "there is no model in"),
    ],
)
def test_a_folder_without_models_is_no_repository(
    make: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "models")
    with pytest.raises(error, match=message):
        check_repository(tmp_path / "models")


def test_a_model_is_no_repository(repository: Path) -> None:
    for folder in (repository / "tiny", repository / "tiny" / "1"):
        with pytest.raises(UsageError, match="is a model, and a repository is the folder around"):
            check_repository(folder)


def test_an_artifact_that_no_trusted_key_signed_is_a_finding(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_REQUIRE_SIGNATURE", "1")
    (finding,) = check_repository(repository).findings
    assert (finding.code, finding.where) == ("artifact", "tiny/1")
    assert "is not signed by a trusted key, which is required here" in finding.message


# ---- the command


def test_the_command_says_every_finding_and_the_first_as_its_error(
    repository: Path, tmp_path: Path
) -> None:
    root = copy_of(repository, tmp_path)
    planted("no labels")(root)
    planted("KIND_GPU")(root)
    done = CliRunner().invoke(main, ["check-triton", str(root)], prog_name="resnext-export")
    assert done.exit_code == 1
    assert "label-file-missing" in done.stdout
    assert "gpu-for-cpu" in done.stdout
    assert "tiny/config.pbtxt:8" in done.stdout
    assert done.stderr.startswith(f"error: {root} has 1 fault; tiny/config.pbtxt:8: there is no")
    assert done.stderr.count("\n") == 1
    done = CliRunner().invoke(main, ["check-triton", str(root), "--json", "-"])
    facts = json.loads(done.stdout)
    assert (facts["accepted"], len(facts["findings"])) == (False, 2)
    assert {each["severity"] for each in facts["findings"]} == {"refused", "warning"}


def test_without_tritonclient_the_command_says_how_to_get_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    done = CliRunner().invoke(main, ["check-triton", str(repository)])
    assert done.exit_code == 3
    assert 'pip install "tritonclient[grpc]"' in done.stderr
    assert done.stderr.count("\n") == 1


# ---- protobuf's text


def test_a_text_reads_as_what_was_written() -> None:
    model_config, text_format = served.model_config_class()
    message = {
        "name": "a\"b\\c\n\x07é'",
        "max_batch_size": 3,
        "input": [
            {"name": f"x{index}", "data_type": Word("TYPE_FP32"), "dims": [-1, 3] * index}
            for index in range(1, 9)
        ],
        "dynamic_batching": {"preserve_ordering": True},
    }
    read = text_format.Parse(to_text(message), model_config())
    assert read.name == message["name"]
    assert [list(each.dims) for each in read.input] == [[-1, 3] * n for n in range(1, 9)]
    assert read.dynamic_batching.preserve_ordering
    assert max(map(len, to_text(message).splitlines())) <= 96


def test_lines_are_those_of_the_fields_however_they_are_spelled() -> None:
    text = """# name: "no"
name: 'a # b'  # c
input [
  { name: "x", dims: [ 1,
      2 ] }, { name: "y"
    dims: 3 dims: 4 }
]
input < name: "z" >
version_policy: { specific { versions: [1,
2] } }"""
    lines = lines_of(text)
    expected: dict[tuple[str | int, ...], int] = {
        ("name",): 2,
        ("input", 0): 4,
        ("input", 0, "dims"): 4,
        ("input", 0, "dims", 1): 5,
        ("input", 1): 5,
        ("input", 1, "dims", 0): 6,
        ("input", 1, "dims", 1): 6,
        ("input", 2, "name"): 8,
        ("version_policy", 0, "specific", 0, "versions", 1): 10,
    }
    assert {path: lines.get(path) for path in expected} == expected


@pytest.mark.parametrize("text", ["}", "[", '"', "a", "a {", "a: [ } ]", "{", ": :", "\x00"])
def test_lines_of_a_text_that_is_not_valid_are_no_error(text: str) -> None:
    lines_of(text)
