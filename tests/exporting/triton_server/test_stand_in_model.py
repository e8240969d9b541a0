"""The stand-in for a backend, run here with a stand-in for Triton's own module."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from resnext.artifact.files import Artifact, read_artifact
from resnext_export.triton import stand_in
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.repository import write_repository
from resnext_export.triton.served import Served, read_model
from resnext_export.triton.staging import on_cpus

EARLIER = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts"


@dataclass
class Tensor:
    name: str
    array: Any

    def as_numpy(self) -> Any:
        return self.array


@dataclass
class Answer:
    output_tensors: list[Tensor]


class Refused(Exception):
    pass


def triton_module() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    module.__dict__.update(
        Tensor=Tensor,
        InferenceResponse=Answer,
        TritonModelException=Refused,
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    return module


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens an artifact on the stand-in of a backend, with another config if need be."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_module())

    def make(backend: str, artifact: Artifact, **changes: Any) -> Any:
        folder = tmp_path / backend
        folder.mkdir(exist_ok=True)
        shutil.copyfile(stand_in._MODEL, folder / "model.py")
        spec = importlib.util.spec_from_file_location(f"stand_in_{backend}", folder / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = {
            "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}],
            "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [4]}],
            "default_model_filename": artifact.manifest.file,
            "max_batch_size": 8,
            "parameters": {"intra_op_thread_count": {"string_value": "1"}},
        } | changes
        model.initialize(
            {
                "model_config": json.dumps(config),
                "model_repository": str(artifact.directory.parent),
                "model_version": artifact.directory.name,
            }
        )
        return model

    return make


def requests(*sizes: int) -> list[dict[str, Tensor]]:
    random = np.random.default_rng(0)
    return [
        {"input": Tensor("input", random.standard_normal((size, 1, 8, 8)).astype(np.float32))}
        for size in sizes
    ]


@pytest.fixture(scope="module")
def tiny() -> Artifact:
    return read_artifact(EARLIER / "onnx-fp32")


def test_requests_of_a_batch_are_one_run_and_each_gets_its_rows(
    opened: Callable[..., Any], tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened("onnxruntime", tiny)
    seen: list[int] = []
    run = model._run

    def counted(images: Any) -> Any:
        seen.append(len(images))
        return run(images)

    monkeypatch.setattr(model, "_run", counted)
    asked = requests(1, 3, 2)
    answers = model.execute(asked)
    assert seen == [6]
    for request, answer in zip(asked, answers, strict=True):
        (tensor,) = answer.output_tensors
        assert tensor.name == "logits"
        np.testing.assert_allclose(tensor.array, run(request["input"].array), atol=1e-5)


def test_a_single_request_is_not_copied(opened: Callable[..., Any], tiny: Artifact) -> None:
    model = opened("onnxruntime", tiny)
    (request,) = requests(2)
    taken: list[Any] = []

    def run(images: Any) -> Any:
        taken.append(images)
        return np.zeros((2, 4), np.float32)

    model._run = run
    model.execute([request])
    assert taken[0] is request["input"].array


@pytest.mark.parametrize("count", ["1", "3"])
def test_threads_are_those_of_the_config(
    count: str, opened: Callable[..., Any], tiny: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    options = ort.SessionOptions

    def noted() -> Any:
        made.append(options())
        return made[-1]

    monkeypatch.setattr(ort, "SessionOptions", noted)
    opened("onnxruntime", tiny, parameters={"intra_op_thread_count": {"string_value": count}})
    assert made[0].intra_op_num_threads == int(count)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": []}, "lacks its input"),
        ({"default_model_filename": ""}, "lacks its input, output or default_model_filename"),
        (
            {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}]},
            "the file has no input 'x', only input",
        ),
        (
            {"input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 1, 8, 8]}]},
            r"\[-1, -1, 1, 8, 8\] in the config",
        ),
        (
            {"input": [{"name": "input", "data_type": "TYPE_UINT8", "dims": [1, 8, 8]}]},
            "TYPE_UINT8",
        ),
        (
            {"output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}]},
            r"\[-1, 10\] in the config",
        ),
        ({"max_batch_size": 0}, r"\[1, 8, 8\] in the config"),
    ],
)
def test_a_config_that_is_not_the_files_is_refused(
    changes: dict[str, Any], says: str, opened: Callable[..., Any], tiny: Artifact
) -> None:
    with pytest.raises(Refused, match=says):
        opened("onnxruntime", tiny, **changes)


def test_in_place_of_an_engine_each_row_depends_on_its_image_alone(
    opened: Callable[..., Any], tiny: Artifact
) -> None:
    model = opened("tensorrt", tiny)
    first, second = requests(3, 2)
    together = [it.output_tensors[0].array for it in model.execute([first, second])]
    alone = [model.execute([request])[0].output_tensors[0].array for request in (first, second)]
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_array_equal(got, want)
    assert together[0].shape == (3, 4)
    assert len(np.unique(np.concatenate(together)[:, 0])) == 5


# ---- a repository for GPUs


@pytest.fixture(scope="module")
def for_gpus(tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpus") / "models"
    for name in ("one", "two"):
        write_repository(tiny, root, RepositoryOptions(name=name, cpus=1, max_batch=8))
    path = root / "one" / "config.pbtxt"
    path.write_text(path.read_text().replace("KIND_CPU", "KIND_GPU gpus: [ 0, 1 ]"))
    return root


def models_of(root: Path) -> dict[str, Served]:
    found = {folder.name: read_model(folder) for folder in sorted(root.iterdir())}
    return {name: model for name, model in found.items() if isinstance(model, Served)}


def test_a_stand_in_gets_its_models_on_cpus_and_the_repository_stays_as_it_is(
    for_gpus: Path,
) -> None:
    models = models_of(for_gpus)
    before = models["one"].text
    with on_cpus(for_gpus, models, ["onnxruntime"]) as (folder, moved):
        assert moved == ("one",)
        staged = models_of(folder)
        assert "gpus" in before
        assert staged["one"].text == before.replace("KIND_GPU gpus: [ 0, 1 ]", "KIND_CPU ")
        assert staged["two"].text == models["two"].text
        names = {path.name for path in (folder / "one").iterdir()}
        assert names == {path.name for path in (for_gpus / "one").iterdir()}
    assert models_of(for_gpus)["one"].text == before
    assert not folder.exists()


@pytest.mark.parametrize("backends", [[], ["tensorrt"]])
def test_without_a_stand_in_for_them_nothing_is_staged(backends: list[str], for_gpus: Path) -> None:
    with on_cpus(for_gpus, models_of(for_gpus), backends) as (folder, moved):
        assert folder == for_gpus.resolve()
        assert moved == ()
