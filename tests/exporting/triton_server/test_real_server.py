"""The real core of Triton: repositories of the shipped network pass, and planted faults are found.

One server is started in the default suite; the faults are `exhaustive`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from exported import derive_onnx, export_openvino
from resnext.artifact.files import Artifact, read_artifact
from resnext.precision import Precision
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.verify.inputs import seeded_inputs
from resnext.weights.spec import Weights
from resnext_export import ExportRequest, export
from resnext_export.cli.export import main
from resnext_export.triton import stand_in
from resnext_export.triton.environment import Installation
from resnext_export.triton.exam import examine_here, examine_there
from resnext_export.triton.network_exam import Examined
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.repository import write_repository
from resnext_export.triton.server import served

FLOAT, INT8 = "digits-fp32", "digits-int8"


@pytest.fixture(scope="session")
def repository(
    installation: Installation,
    digits: Weights,
    digits_artifact: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Digits at fp32, with its preprocessing, and at int8."""
    del installation  # nothing is made where there is no server
    folder = tmp_path_factory.mktemp("triton")
    int8 = derive_onnx(digits_artifact, digits, folder / "int8", ExportRequest(precision="int8"))
    root = folder / "models of $(nobody) 'x"  # a shell reads it, in the server
    options = RepositoryOptions(cpus=1, max_batch=8)
    write_repository(digits_artifact, root, replace(options, with_preprocessing=True))
    write_repository(int8, root, options)
    return root


def codes(examined: Examined) -> set[tuple[str, str]]:
    found = [(finding.code, finding.where.partition("/")[0]) for finding in examined.findings]
    # What is wrong at every batch size is one finding.
    assert not any(found.count(each) > 1 for each in found if each[0] == "served-logits")
    return set(found)


def test_shipped_networks_pass_on_the_real_core(
    installation: Installation, repository: Path
) -> None:
    models = {FLOAT: "onnxruntime", f"{FLOAT}-preprocess": "python"}
    with served(repository, list(models.values()), installation) as server:
        by_grpc = examine_there(repository, server.grpc)
        by_http = examine_there(repository, server.http)
        warmed = server.warmed
    assert [str(finding) for finding in (*by_grpc.findings, *by_http.findings)] == []
    assert warmed == dict.fromkeys((FLOAT, INT8), ("batch-1", "batch-8"))
    seen = "\n".join(by_grpc.lines)
    for name in (FLOAT, INT8):
        assert f"{name}: logits of batch 1-8 as PyTorch gives them" in seen
        assert f"{name}: wrong requests refused" in seen
    assert f"{FLOAT}-classify: 16 pictures, with the logits and class names" in seen
    # gRPC shows more.
    assert {line.partition(":")[0] for line in by_http.unchecked} >= {FLOAT, f"{FLOAT}-classify"}
    assert not any(line.startswith("digits") for line in by_grpc.unchecked)


def test_the_second_server_of_the_environment_can_be_started(installation: Installation) -> None:
    """Its pins are installed without what they require."""
    if installation.programs is None:
        pytest.skip("a server of another environment")
    words = [str(installation.programs / "python"), "-c", "import mlserver, tritonclient.http"]
    assert subprocess.run(words, check=False, capture_output=True).stderr == b""


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_other_shipped_network_passes(
    precision: Precision, installation: Installation, tmp_path: Path
) -> None:
    fields: dict[str, Any] = (
        {} if precision == "fp32" else {"precision": precision, "calibration": "random"}
    )
    artifact = export("fashion-mnist", tmp_path / "artifact", format="onnx", **fields)
    root = tmp_path / "models"
    write_repository(artifact, root, RepositoryOptions(cpus=1, with_preprocessing=True))
    examined = examine_here(root, installation)
    assert [str(finding) for finding in examined.findings] == []
    assert "16 pictures, with the logits and class names" in "\n".join(examined.lines)


@pytest.mark.exhaustive
def test_the_command_says_what_stood_in_and_what_was_seen(
    installation: Installation, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    words = ["check-triton", str(repository), "--server", "required", "--json", str(report)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    version = installation.versions["onnxruntime"]
    assert "seen      core: tritonserver 2." in done.stdout
    assert f"backend onnxruntime: our stand-in on ONNX Runtime {version}" in done.stdout
    assert "examining digits-int8 on the server" in done.stderr
    assert any(
        "mixed requests of 8 clients" in line for line in json.loads(report.read_text())["seen"]
    )


# ---- faults in what a backend does, planted into the stand-in

BACKEND_FAULTS = {
    "rows swapped between requests": (
        "            rows = outputs[at : at + len(array)]\n",
        "            rows = outputs[len(outputs) - at - len(array) : len(outputs) - at]\n",
        ("batch-mixed", FLOAT),
    ),
    "the largest batch is another": (
        "        return config\n",
        '        config._model_config["max_batch_size"] = 16\n        return config\n',
        ("config-changed", FLOAT),
    ),
    "a row leaks into the next": (
        "        return self._session.run(self._outputs, {self._input: images})[0]",
        "        logits = self._session.run(self._outputs, {self._input: images})[0]\n"
        "        logits[1:] += np.float32(1e-3) * logits[:-1]\n"
        "        return logits",
        ("batch-neighbor", FLOAT),
    ),
    "half the precision": (
        "        return self._session.run(self._outputs, {self._input: images})[0]",
        "        logits = self._session.run(self._outputs, {self._input: images})[0]\n"
        "        return logits.astype(np.float16).astype(np.float32)",
        ("served-logits", FLOAT),
    ),
    "one size fails": (
        '        """Run all requests that the server put together at once."""\n',
        '        """Run all requests."""\n'
        "        if any(\n"
        '            len(triton.get_input_tensor_by_name(it, "input").as_numpy()) == 5\n'
        "            for it in requests\n"
        "        ):\n"
        '            raise RuntimeError("planted")\n',
        ("served-logits", FLOAT),
    ),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", BACKEND_FAULTS)
def test_a_fault_of_a_backend_is_found(
    name: str,
    installation: Installation,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound, planted, code = BACKEND_FAULTS[name]
    text = stand_in._MODEL.read_text()
    assert text.count(sound) == 1
    (tmp_path / "model.py").write_text(text.replace(sound, planted))
    monkeypatch.setattr(stand_in, "_MODEL", tmp_path / "model.py")
    assert code in codes(examine_here(repository, installation))


# ---- faults in a repository


def _config(change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.pbtxt"
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before

    return edit


def _other_network(folder: Path) -> None:
    """The same graph with other weights in the classifier."""
    path = folder / "1" / "model.onnx"
    model = onnx.load(path)
    weight = max(
        (it for it in model.graph.initializer if len(it.dims) == 2 and 10 in it.dims),
        key=lambda it: it.dims,
    )
    array = numpy_helper.to_array(weight)
    random = np.random.default_rng(0)
    changed = (array * (1 + 1e-3 * random.standard_normal(array.shape))).astype(array.dtype)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, path)


def _labels(folder: Path) -> None:
    lines = (folder / "labels.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join([*lines[1:], lines[0]]) + "\n")


def _other_mean(folder: Path) -> None:
    path = folder.parent / f"{FLOAT}-preprocess" / "config.pbtxt"
    text = path.read_text()
    path.write_text(text.replace('"mean": [0.3', '"mean": [0.4'))
    assert path.read_text() != text


def _smaller(folder: Path) -> None:
    for path in folder.parent.glob("*/config.pbtxt"):
        path.write_text(path.read_text().replace("batch_size: 8", "batch_size: 4"))


def _removed(folder: Path) -> None:
    for each in folder.parent.glob(f"{FLOAT}*"):
        shutil.rmtree(each)


#: What is changed behind the back of whoever wrote the repository, and what the exam calls it.
SERVED_FAULTS: dict[str, tuple[Callable[[Path], None], tuple[str, str]]] = {
    "another network of the same name": (_other_network, ("served-logits", FLOAT)),
    "labels in another order": (_labels, ("served-label", FLOAT)),
    "another mean before the network": (_other_mean, ("served-pictures", f"{FLOAT}-classify")),
    "another number of threads": (
        _config(lambda text: text.replace('string_value: "1"', 'string_value: "2"')),
        ("config-changed", FLOAT),
    ),
    "a smaller largest batch": (_smaller, ("config-changed", FLOAT)),
    "no such model": (_removed, ("exam-failed", FLOAT)),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SERVED_FAULTS)
def test_a_server_that_serves_something_else_is_found(
    name: str, installation: Installation, repository: Path, tmp_path: Path
) -> None:
    change, code = SERVED_FAULTS[name]
    changed = tmp_path / "models"
    shutil.copytree(repository, changed)
    change(changed / FLOAT)
    with served(changed, ["onnxruntime", "python"], installation) as server:
        assert code in codes(examine_there(repository, server.grpc))


#: What the server itself refuses, and its reason.
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a field of another name": (
        _config(lambda text: text.replace("max_batch_size", "max_batchsize")),
        'has no field named "max_batchsize"',
    ),
    "a name unlike the folder's": (
        _config(lambda text: text.replace('name: "digits-fp32"', 'name: "digits"', 1)),
        "directory name must equal model name",
    ),
    "no version": (
        lambda folder: (folder / "1").rename(folder / "2"),
        "the version directory is not present",
    ),
    "no labels": (lambda folder: (folder / "labels.txt").unlink(), "labels.txt"),
    "no such backend": (
        _config(lambda text: text.replace('"onnxruntime"', '"nonesuch"')),
        "unable to find backend library for backend 'nonesuch'",
    ),
    "a warm-up batch past the largest": (
        _config(lambda text: text.replace("  batch_size: 8", "  batch_size: 9")),
        "max allowed is 8",
    ),
    "a short warm-up file": (
        lambda folder: (folder / "warmup" / "batch-8.bin").write_bytes(b"1234"),
        "only has 4 bytes",
    ),
    "no warm-up file": (
        lambda folder: (folder / "warmup" / "batch-8.bin").unlink(),
        "batch-8.bin: No such file",
    ),
    "the batch among the dims": (
        _config(lambda text: text.replace("TYPE_FP32 dims: [ 1, 8", "TYPE_FP32 dims: [ -1, 1, 8")),
        "in the config, with its batch, and float32",
    ),
    "an input of another name": (
        _config(lambda text: text.replace('name: "input"', 'name: "image"')),
        "the file has no input 'image', only input",
    ),
    "a broken file": (
        lambda folder: (folder / "1" / "model.onnx").write_bytes(b"1234"),
        "Protobuf parsing failed",
    ),
    "no file": (lambda folder: (folder / "1" / "model.onnx").unlink(), "File doesn't exist"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_server_refuses_is_one_line(
    name: str, installation: Installation, repository: Path, tmp_path: Path
) -> None:
    change, reason = REFUSED[name]
    root = tmp_path / "models"
    shutil.copytree(repository / FLOAT, root / FLOAT)
    change(root / FLOAT)
    found = examine_here(root, installation).findings
    assert [(finding.code, finding.where) for finding in found] == [("server-load", FLOAT)]
    assert reason in found[0].message


# ---- faults of the server itself


@pytest.mark.exhaustive
def test_a_server_that_dies_in_the_exam_is_said(
    installation: Installation, repository: Path
) -> None:
    shared = ""

    def kill(step: str) -> None:
        nonlocal shared
        if step.startswith(f"examining {INT8}"):
            (process,) = _servers()
            words = Path(f"/proc/{process}/cmdline").read_text()
            shared = words.partition("shm-region-prefix-name=")[2].partition("\0")[0]
            os.kill(process, signal.SIGKILL)

    found = examine_here(repository, installation, kill)
    assert ("server-ended", "") in codes(found)
    assert "SIGKILL" in found.findings[-1].message
    assert shared
    assert not list(Path("/dev/shm").glob(f"{shared}*"))


def _servers() -> list[int]:
    children = [
        int(word)
        for path in Path("/proc/self/task").glob("*/children")
        for word in path.read_text().split()
    ]
    return [it for it in children if "tritonserver" in Path(f"/proc/{it}/exe").readlink().name]


@pytest.mark.exhaustive
def test_the_stand_in_computes_what_a_session_here_computes(
    installation: Installation, repository: Path
) -> None:
    artifact = read_artifact(repository / FLOAT / "1")
    images: Any = seeded_inputs(artifact.manifest, 8)
    with served(repository, ["onnxruntime", "python"], installation) as server:
        for url in (server.http, server.grpc):
            options = SessionOptions(url=f"{url}/{FLOAT}")
            with open_session(artifact, "v2", options=options) as there:
                logits = there(images)
                assert "as here" in there.delivered().notes["artifact"]  # the digest is told
            with open_session(artifact, "ort-cpu", options=SessionOptions(threads=1)) as here:
                np.testing.assert_allclose(logits, here(images), rtol=1e-5, atol=1e-5)


# ---- other kinds of artifacts


@pytest.mark.exhaustive
def test_openvino_is_examined_on_a_stand_in(
    installation: Installation, digits: Weights, digits_artifact: Artifact, tmp_path: Path
) -> None:
    artifact = export_openvino(digits_artifact, digits, tmp_path / "ir")
    options = RepositoryOptions(name="ir", cpus=1, with_preprocessing=True)
    write_repository(artifact, tmp_path / "models", options)
    examined = examine_here(tmp_path / "models", installation)
    assert [str(finding) for finding in examined.findings] == []
    seen = "\n".join(examined.lines)
    assert "backend openvino: our stand-in on OpenVINO 20" in seen
    assert any("bfloat16" in line for line in examined.unchecked)
    assert "ir: logits of batch 1-16,33 as PyTorch gives them" in seen


@pytest.mark.exhaustive
def test_an_engines_repository_is_examined_but_for_its_logits(
    installation: Installation, tmp_path: Path
) -> None:
    """An engine as far as its manifest says: nothing can be computed here."""
    earlier = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts" / "trt-rtx-fp32"
    folder = tmp_path / "engine"
    shutil.copytree(earlier, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    profiles = [{"min": 1, "opt": 1, "max": 1}, {"min": 2, "opt": 4, "max": 8}]
    record = manifest["engine"] | {"library": "tensorrt"}
    record["options"] |= {"profiles": profiles}
    check = {"batches": [1], "backend": "trt", "max_error": 0.0, "tolerance": 1e-4}
    manifest |= {"kind": "trt", "engine": record, "check": check}
    manifest["batch"] = {"min": 1, "opt": 1, "max": 8}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    root = tmp_path / "models"
    write_repository(read_artifact(folder), root, RepositoryOptions(name="engine"))
    examined = examine_here(root, installation)
    assert [str(finding) for finding in examined.findings] == []
    assert "backend tensorrt: our stand-in, which computes no logits" in examined.lines
    assert "engine: KIND_CPU for KIND_GPU, as our stand-in runs" in examined.lines
    assert "engine: logits, because the stand-in computes none" in examined.unchecked
    assert any("mixed requests" in line for line in examined.lines)
