from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exported import export_engine, export_onnx
from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.manifest import BatchRange, Manifest
from resnext.artifact.records import EngineOptions
from resnext.artifact.trust import remember_built
from resnext.errors import MissingRequirement
from resnext.machine import cuda_driver
from resnext.machine.cuda_driver import Driver
from resnext.readers.files import file_sha256
from resnext.runtimes.trt.identity import engine_name
from resnext.runtimes.trt.library import Library, library_for
from resnext.weights.spec import Weights, load_weights


@pytest.fixture(scope="session")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="session")
def digits_artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("digits") / "artifact")


@pytest.fixture(scope="session")
def static_artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(
        digits, tmp_path_factory.mktemp("static") / "artifact", batch=BatchRange.parse("3")
    )


@pytest.fixture(scope="session")
def fp16_artifact(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export_onnx(digits, tmp_path_factory.mktemp("fp16") / "artifact", precision="fp16")


@contextmanager
def without_driver() -> Iterator[None]:
    def absent(name: str) -> None:
        raise OSError(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver, "ctypes", SimpleNamespace(CDLL=absent))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_gpu() -> Iterator[None]:
    """Engines are built ahead of time here, also where there is a GPU, so that the tests say the
    same everywhere.
    """
    with without_driver():
        yield


@pytest.fixture
def plant_driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver], None]:
    """Makes the toolkit see another driver than the machine's."""

    def plant(driver: Driver) -> None:
        monkeypatch.setattr(cuda_driver, "probe_driver", lambda: driver)

    return plant


@pytest.fixture(scope="session")
def rtx() -> Library:
    try:
        return library_for("trt-rtx")
    except MissingRequirement as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def engine(
    rtx: Library, digits: Weights, digits_artifact: Artifact, tmp_path_factory: Any
) -> Artifact:
    options = EngineOptions(profiles=(BatchRange.parse("1:8:64"),))
    with without_driver():
        return export_engine(
            digits_artifact,
            digits,
            tmp_path_factory.mktemp("engine") / "fp32",
            kind=rtx.kind,
            options=options,
        )


@pytest.fixture(scope="session")
def fp16_engine(
    rtx: Library, digits: Weights, fp16_artifact: Artifact, tmp_path_factory: Any
) -> Artifact:
    options = EngineOptions(profiles=(BatchRange.parse("1:8:64"),), targets=("sm_89", "sm_120"))
    with without_driver():
        return export_engine(
            fp16_artifact,
            digits,
            tmp_path_factory.mktemp("engine") / "fp16",
            kind=rtx.kind,
            options=options,
        )


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Artifact, Callable[[dict[str, Any]], None]], Artifact]:
    """A copy of an engine with another manifest, as if it had been built so: the name in its bytes
    is made to fit.
    """

    def change(artifact: Artifact, edit: Callable[[dict[str, Any]], None]) -> Artifact:
        folder = tmp_path / "changed"
        shutil.copytree(artifact.directory, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        edit(manifest)
        names = []
        for told in (artifact.manifest, Manifest.model_validate_json(json.dumps(manifest))):
            assert told.engine is not None
            options = told.engine.options
            names.append(
                engine_name(told, refittable=options.strip_weights, tf32=options.tf32).encode()
            )
        file = folder / artifact.manifest.file
        file.write_bytes(file.read_bytes().replace(names[0], names[1]))
        manifest["file_sha256"] = file_sha256(file)
        remember_built(manifest["file_sha256"])
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return read_artifact(folder)

    return change
