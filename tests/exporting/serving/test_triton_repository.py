"""A repository is the checked artifact, byte for byte, whole or not at all, beside other models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.foreign import open_artifact
from resnext.errors import BadArtifact, MissingRequirement, UsageError
from resnext.readers.files import file_sha256
from resnext.runtimes.front import open_session
from resnext.weights.shipped import SHIPPED
from resnext_export.cli.export import main
from resnext_export.request import ExportRequest
from resnext_export.triton import warmup
from resnext_export.triton.kserve import PLACEHOLDER, service_name, service_yaml
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.repository import write_repository
from resnext_export.triton.rules import check_repository

EARLIER = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts"
Changed: TypeAlias = Callable[..., Artifact]


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_version_folder_is_the_artifact(repository: Path, tiny: Artifact) -> None:
    copy = repository / "tiny" / "1"
    assert files(copy) == files(tiny.directory)
    assert read_artifact(copy).manifest == tiny.manifest


def test_the_configuration_says_what_the_artifact_is(repository: Path, tiny: Artifact) -> None:
    config = config_of(repository / "tiny")
    assert (config.name, config.backend) == ("tiny", "onnxruntime")
    assert (config.default_model_filename, config.max_batch_size) == ("model.onnx", 8)
    assert [(each.name, list(each.dims)) for each in config.input] == [("input", [1, 8, 8])]
    assert [(each.name, list(each.dims)) for each in config.output] == [("logits", [4])]
    assert list(config.version_policy.specific.versions) == [1]
    assert config.HasField("dynamic_batching")
    assert list(config.dynamic_batching.preferred_batch_size) == []
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["intra_op_thread_count"] == "2"
    assert parameters["resnext.file_sha256"] == tiny.manifest.file_sha256
    assert parameters["resnext.manifest_sha256"] == file_sha256(tiny.directory / "manifest.json")
    assert json.loads(parameters["resnext.preprocessing"])["mean"] == [0.5]
    assert (repository / "tiny" / "labels.txt").read_text() == "a\nb\nc\nd\n"


def test_warm_up_samples_are_requests_with_the_answers_beside(
    repository: Path, tiny: Artifact
) -> None:
    samples = {each.name: each for each in config_of(repository / "tiny").model_warmup}
    assert {name: each.batch_size for name, each in samples.items()} == {"batch-1": 1, "batch-8": 8}
    folder = repository / "tiny" / "warmup"
    images = []
    for name, sample in samples.items():
        raw = (folder / sample.inputs["input"].input_data_file).read_bytes()
        images.append(np.frombuffer(raw, np.float32).reshape(1, 1, 8, 8))
        with open_session(tiny) as session:
            np.testing.assert_array_equal(
                session(images[-1]), np.load(folder / f"{name}.logits.npy")
            )
    assert not np.array_equal(images[0], images[1])


def test_a_shipped_network_is_warmed_up_with_its_own_pictures(changed: Changed) -> None:
    artifact = changed(weights={"source": "digits", "sha256": "0" * 64})
    pixels = artifact.manifest.prepared
    first = sorted(SHIPPED["digits"].images.glob("*.png"))[0]
    image = warmup.images_for(artifact.manifest, 1)
    np.testing.assert_array_equal(image, pixels.normalize(pixels.load(first)))


@pytest.mark.parametrize(
    ("most", "largest", "sizes"), [(None, 64, {1: 1, 64: 64}), (6, 6, {1: 1, 6: 6})]
)
def test_batches_are_the_artifacts_own(
    most: int | None, largest: int, sizes: dict[int, int], changed: Changed, tmp_path: Path
) -> None:
    artifact = changed(batch={"min": 1, "opt": 4, "max": most})
    written = write_repository(artifact, tmp_path / "models", RepositoryOptions(name="m"))
    config = config_of(tmp_path / "models" / "m")
    assert config.max_batch_size == written.max_batch == largest
    assert sizes_of(config) == sizes


def sizes_of(config: Any) -> dict[int, int]:
    """Images of each warm-up sample by its name, and requests."""
    names = {each.name.removeprefix("batch-"): each.batch_size for each in config.model_warmup}
    return {int(name): size for name, size in names.items()}


def test_a_fixed_batch_is_one_request_in_a_model_that_is_not_batched(
    fixed: Artifact, tmp_path: Path
) -> None:
    options = RepositoryOptions(name="m", with_preprocessing=True)
    said: list[str] = []
    write_repository(fixed, tmp_path / "models", options, say=said.append)
    assert ["classifies all images of a request as one" in line for line in said] == [True]
    assert not (tmp_path / "models" / "m" / "labels.txt").exists()
    config = config_of(tmp_path / "models" / "m")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 1, 8, 8])
    assert not config.HasField("dynamic_batching")
    assert sizes_of(config) == {2: 1}
    folder = tmp_path / "models" / "m" / "warmup"
    assert (folder / "batch-2.bin").stat().st_size == 2 * 64 * 4
    assert np.load(folder / "batch-2.logits.npy").shape == (2, 4)
    classify = config_of(tmp_path / "models" / "m-classify")
    assert (classify.max_batch_size, list(classify.input[0].dims)) == (0, [2])
    assert check_repository(tmp_path / "models").findings == ()


def test_openvino_gets_both_files_and_any_batch(tmp_path: Path) -> None:
    artifact = read_artifact(EARLIER / "openvino-fp32")
    said: list[str] = []
    options = RepositoryOptions(name="m", cpus=3)
    write_repository(artifact, tmp_path / "models", options, say=said.append)
    assert ["may compute float32 in bfloat16" in line for line in said] == [True]
    config = config_of(tmp_path / "models" / "m")
    assert (config.backend, config.default_model_filename) == ("openvino", "model.xml")
    # with max_batch_size, this backend refuses all other batches
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 1, 8, 8])
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "3"
    version = tmp_path / "models" / "m" / "1"
    assert {path.name for path in version.iterdir()} == {
        *("model.ovir", "manifest.json", "model.xml", "model.bin")
    }
    assert (version / "model.xml").read_bytes().startswith(b"<?xml")


def test_an_engine_gets_its_profiles(
    engine: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(_: Artifact) -> None:
        raise MissingRequirement("there is no GPU here")

    monkeypatch.setattr(warmup, "open_session", no_gpu)
    said: list[str] = []
    options = RepositoryOptions(name="m")
    artifact = engine((1, 1, 1), (2, 16, 32))
    write_repository(artifact, tmp_path / "models", options, service=True, say=said.append)
    config = config_of(tmp_path / "models" / "m")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 32)
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 16]
    (group,) = config.instance_group
    assert (group.Kind.Name(group.kind), list(group.profile)) == ("KIND_GPU", ["0", "1"])
    assert [each.batch_size for each in config.model_warmup] == [1, 16]
    assert said == [
        "no expected logits beside the warm-up samples: there is no GPU here",
    ]
    service = yaml.safe_load((tmp_path / "models" / "m" / "inference-service.yaml").read_text())
    limits = service["spec"]["predictor"]["model"]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


def test_what_a_server_must_not_get_is_refused(
    engine: Callable[..., Artifact],
    fixed: Artifact,
    changed: Changed,
    tmp_path: Path,
    tiny: Artifact,
) -> None:
    up_to_4 = {"min": 1, "opt": 2, "max": 4}
    refused: list[tuple[Artifact, RepositoryOptions, str]] = [
        (engine((1, 1, 1), (64, 64, 256)), RepositoryOptions(), "a server forms any from 1 on"),
        (changed(check=None), RepositoryOptions(), "was never checked"),
        (tiny, RepositoryOptions(name="../m"), "`name`"),
        (tiny, RepositoryOptions(queue_delay=5, max_batch=1), "`queue_delay`"),
        (fixed, RepositoryOptions(max_batch=2), "takes batch 2 only; drop `max_batch`"),
        (changed(batch=up_to_4), RepositoryOptions(max_batch=8), "`max_batch` 8 is more"),
        (tiny, RepositoryOptions(name=".m"), "`name`"),
        (
            read_artifact(EARLIER / "pt2-fp32"),
            RepositoryOptions(),
            "PyTorch that compiled",
        ),
        (changed("trt-rtx-fp32", check=None), RepositoryOptions(), "never checked"),
        (changed("onnx-int8", batch={"min": 2, "opt": 2, "max": 4}), RepositoryOptions(), "from 1"),
    ]
    for artifact, options, message in refused:
        with pytest.raises(UsageError, match=message):
            write_repository(artifact, tmp_path / "models", options)
    assert not (tmp_path / "models").exists()


def test_a_bare_file_has_no_proof(tiny: Artifact, tmp_path: Path) -> None:
    bare = tmp_path / "model.onnx"
    bare.write_bytes(tiny.read())
    with pytest.raises(UsageError, match="no manifest, so nothing says whether it was checked"):
        write_repository(open_artifact(bare), tmp_path / "models")


def test_models_are_added_and_replaced_only_by_request(tiny: Artifact, tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_repository(tiny, root, RepositoryOptions(name="one"))
    before = files(root)
    write_repository(tiny, root, RepositoryOptions(name="two"))
    after = files(root)
    assert {name: after[name] for name in before} == before
    assert {path.name for path in root.iterdir()} == {"one", "two"}
    half = read_artifact(EARLIER / "onnx-fp16")
    with pytest.raises(
        UsageError, match=r"a model two in .* already; set `force` to replace it, or"
    ):
        write_repository(half, root, RepositoryOptions(name="two"))
    assert files(root) == after
    write_repository(half, root, RepositoryOptions(name="two"), force=True)
    assert read_artifact(root / "two" / "1").manifest.precision == "fp16"
    (root / "two" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files besides a model that this toolkit wrote"):
        write_repository(tiny, root, RepositoryOptions(name="two"), force=True)
    (root / "two" / "notes.txt").unlink()
    (root / "two" / "config.pbtxt").write_text('name: "two"\n')
    with pytest.raises(UsageError, match="besides a model that this toolkit wrote"):
        write_repository(tiny, root, RepositoryOptions(name="two"), force=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (root / "results").mkdir(parents=True), "results in it has no config.pbtxt"),
        (lambda root: write_artifact(root), "is an artifact, and a repository is"),
        (lambda root: write_artifact(root, "config.pbtxt"), "is a model of a repository, and"),
        (lambda root: root.write_text(""), "is not a folder"),
    ],
    ids=["other folder", "artifact", "model", "file"],
)
def test_other_folders_are_not_made_repositories(
    make: Callable[[Path], object], message: str, tiny: Artifact, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    make(root)
    with pytest.raises(UsageError, match=message):
        write_repository(tiny, root)


def test_a_model_without_a_configuration_is_left_beside(tiny: Artifact, tmp_path: Path) -> None:
    (tmp_path / "models" / "completed-by-the-server" / "1").mkdir(parents=True)
    write_repository(tiny, tmp_path / "models", RepositoryOptions(name="tiny"))


def write_artifact(root: Path, name: str = "manifest.json") -> None:
    root.mkdir()
    (root / name).write_text("{}")


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_after_a_failure_nothing_is_there(
    there: bool, tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    options = RepositoryOptions(name="m", with_preprocessing=True)
    if there:
        write_repository(tiny, root, options)
    before = files(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MissingRequirement, match="no room"):
            write_repository(tiny, root, options, force=there)
    assert files(tmp_path) == before
    assert root.exists() == there


def test_an_artifact_that_changes_while_it_is_copied_is_refused(
    changed: Changed, tmp_path: Path
) -> None:
    artifact = changed()
    data = bytearray(artifact.path.read_bytes())
    data[-1] ^= 1
    artifact.path.write_bytes(data)
    with pytest.raises(BadArtifact, match="altered"):
        write_repository(artifact, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# ---- KServe


def test_the_service_names_protocol_storage_and_resources() -> None:
    assert yaml.safe_load(service_yaml("My_Net-8", cpus=3, gpu=False, storage_uri="s3://b/m")) == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "my-net-8"},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton"},
                    "protocolVersion": "v2",
                    "storageUri": "s3://b/m",
                    "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}},
                }
            }
        },
    }


def test_an_unnamed_storage_is_none_that_a_cluster_knows() -> None:
    service = yaml.safe_load(service_yaml("m", cpus=1, gpu=False))
    uri = service["spec"]["predictor"]["model"]["storageUri"]
    assert uri == PLACEHOLDER
    # KServe's own list, and paths, which it takes for local ones
    known = ("gs", "s3", "pvc", "file", "https", "http", "hdfs", "webhdfs", "oci", "hf")
    assert uri.partition("://")[0] not in known
    assert "://" in uri


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("digits-fp32", "digits-fp32"),
        ("8_net", "model-8-net"),
        ("A" * 80, "a" * 50),
        ("_", "model"),
    ],
)
def test_a_service_has_a_name_that_kubernetes_takes(model: str, name: str) -> None:
    assert service_name(model) == name


# ---- the command


def call(*words: str) -> Any:
    return CliRunner().invoke(main, words, prog_name="resnext-export")


def test_the_command_exports_and_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[ExportRequest] = []

    def export(request: ExportRequest, output: Path, **_: Any) -> Artifact:
        requests.append(request)  # what that takes has tests of its own; the guide runs it whole
        return read_artifact(Path(shutil.copytree(EARLIER / "onnx-fp32", output)))

    monkeypatch.setattr("resnext_export.pipeline.run", export)
    root = tmp_path / "models"
    weights = str(EARLIER / "tiny.safetensors")
    words = ("--format", "kserve", "--weights", weights, "--output", str(root))
    done = call(*words, "--with-preprocessing", "--cpus", "2", "--storage-uri", "gs://b/models")
    assert done.exit_code == 0, done.output
    assert [request.record() for request in requests] == [{"format": "onnx", "weights": weights}]
    assert {path.name for path in root.iterdir()} == {
        *("tiny-fp32", "tiny-fp32-preprocess", "tiny-fp32-classify")
    }
    artifact = read_artifact(root / "tiny-fp32" / "1")
    assert artifact.manifest.check is not None
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if "wrote" not in line)
    assert lines["sha256"] == artifact.manifest.file_sha256
    assert lines["check"] == f"resnext-export check-triton {root}"
    assert lines["serve"] == f"tritonserver --model-repository={root}"
    text = Path(lines["service"]).read_text()
    assert "gs://b/models" in text
    checked = call("check-triton", str(root), "--server", "off")
    assert (checked.exit_code, checked.stdout.count("\n")) == (0, 1), checked.output


def test_a_name_that_is_taken_is_refused_before_the_export(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*_: object, **__: object) -> None:
        pytest.fail("something was exported")

    monkeypatch.setattr("resnext_export.pipeline.run", export)
    before = sorted(repository.iterdir())
    for name, message in (("tiny", "choose another --name"), ("a/b", "--name 'a/b' must be")):
        done = call("--format", "triton", "--name", name, "--output", str(repository))
        assert done.exit_code == 2
        assert message in done.stderr
    assert sorted(repository.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("onnx", "--cpus", "2"), "`--cpus` is for `--format` triton or kserve"),
        (("triton", "--storage-uri", "gs://b"), "is for `--format` kserve"),
        (("triton", "--artifact", "a", "--precision", "int8"), "drop `--precision`"),
        (("triton", "--artifact", "a", "--kind", "trt"), "drop `--kind`"),
        (("triton", "--no-check"), "an unchecked artifact is not served"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], message: str) -> None:
    done = call("--format", *words)
    assert done.exit_code == 2
    assert message.replace("`", "") in done.stderr.replace("`", "")
    assert done.stderr.count("\n") == 1
