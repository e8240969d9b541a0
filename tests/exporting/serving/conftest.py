from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import pytest

from resnext.artifact.files import Artifact, read_artifact
from resnext.readers.files import file_sha256
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.repository import write_repository

EARLIER = Path(__file__).parents[2] / "core" / "data" / "earlier_artifacts"
CHECK = {"batches": [1], "backend": "trt", "max_error": 0.0, "tolerance": 1e-4}

#: Makes a stored artifact with another manifest.
Changed: TypeAlias = Callable[..., Artifact]


@pytest.fixture(scope="session")
def tiny() -> Artifact:
    """ONNX, any batch, four classes."""
    return read_artifact(EARLIER / "onnx-fp32")


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """A copy of a stored artifact, with other values in its manifest."""
    made: list[Path] = []

    def change(name: str = "onnx-fp32", **values: Any) -> Artifact:
        folder = tmp_path / "changed" / str(len(made)) / name
        made.append(folder)
        shutil.copytree(EARLIER / name, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | values))
        return read_artifact(folder)

    return change


@pytest.fixture
def fixed(changed: Changed) -> Artifact:
    """ONNX, batch 2 alone."""
    artifact = changed()
    model = onnx.load_from_string(artifact.read())
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    artifact.path.write_bytes(model.SerializeToString())
    values: dict[str, Any] = artifact.manifest.model_dump(mode="json")
    for name in ("inputs", "outputs"):
        values[name][0]["shape"] = [2, *values[name][0]["shape"][1:]]
    values |= {
        "batch": {"min": 2, "opt": 2, "max": 2},
        "file_sha256": file_sha256(artifact.path),
        "file_size_bytes": artifact.path.stat().st_size,
    }
    (artifact.directory / "manifest.json").write_text(json.dumps(values))
    return read_artifact(artifact.directory)


@pytest.fixture
def engine(changed: Changed) -> Callable[..., Artifact]:
    """An engine of TensorRT, as far as its manifest says, with these (MIN, OPT, MAX)."""

    def make(*profiles: tuple[int, int, int]) -> Artifact:
        ranges = [dict(zip(("min", "opt", "max"), each, strict=True)) for each in profiles]
        record = json.loads((EARLIER / "trt-rtx-fp32" / "manifest.json").read_text())["engine"]
        record |= {"library": "tensorrt", "options": record["options"] | {"profiles": ranges}}
        batch = {"min": profiles[0][0], "opt": profiles[0][1], "max": profiles[-1][2]}
        return changed("trt-rtx-fp32", kind="trt", engine=record, batch=batch, check=CHECK)

    return make


@pytest.fixture(scope="session")
def repository(tiny: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network ``tiny``, with preprocessing; not to be changed."""
    root = tmp_path_factory.mktemp("served") / "models"
    options = RepositoryOptions(name="tiny", with_preprocessing=True, cpus=2, max_batch=8)
    return write_repository(tiny, root, options).root
