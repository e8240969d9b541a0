"""Several builds of one request: what differs between them is reported, and nothing is invented."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from resnext.artifact.files import Artifact, read_artifact
from resnext.errors import BadWeights
from resnext.testing import FakeSession
from resnext.weights import spec as weights_spec
from resnext_export import export
from resnext_export.cli.export import main
from resnext_export.pipeline import rebuild
from resnext_export.spread import compared, spread

SHIPPED = Path(weights_spec.__file__).parent / "shipped"
EARLIER = Path(__file__).parents[1] / "core" / "data" / "earlier_artifacts"


def metadata_of(path: Path) -> dict[str, str] | None:
    with safe_open(path, "np") as file:
        found: dict[str, str] | None = file.metadata()
    return found


@pytest.fixture(scope="module")
def requested(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact whose request names its weights, so that it can be made again."""
    folder = tmp_path_factory.mktemp("requested") / "artifact"
    return export("digits", folder, format="onnx", check=False)


def test_an_artifact_whose_weights_have_changed_is_not_made_again(tmp_path: Path) -> None:
    """Of a checkpoint that was overwritten, another network would take its name."""
    checkpoint = tmp_path / "weights.safetensors"
    tensors = load_file(SHIPPED / "digits.safetensors")
    save_file(tensors, checkpoint, metadata=metadata_of(SHIPPED / "digits.safetensors"))
    made = export(str(checkpoint), tmp_path / "artifact", format="onnx", check=False)
    negated = {**tensors, "fc.weight": -tensors["fc.weight"]}
    save_file(negated, checkpoint, metadata=metadata_of(SHIPPED / "digits.safetensors"))
    for again in (
        lambda: rebuild(made.directory, check=False),
        lambda: spread(made.directory, 2, check=False),
    ):
        with pytest.raises(BadWeights, match="other weights than the artifact was made from"):
            again()
    assert read_artifact(made.directory).manifest == made.manifest


@pytest.mark.exhaustive
def test_onnx_builds_are_the_same_bytes_and_answers(requested: Artifact) -> None:
    before = {path: path.stat().st_mtime_ns for path in requested.directory.iterdir()}
    found = spread(requested.directory, 2, check=False)
    assert found.distinct == 1
    assert [build.sha256 for build in found.builds] == [requested.manifest.file_sha256] * 2
    assert [build.flips for build in found.builds] == [0, 0]
    assert (found.boundary, found.batch, found.images) == ("host", 8, 256)
    assert all(len(build.rounds_ns) == 5 for build in found.builds)
    assert all(times for build in found.builds for times in build.rounds_ns)
    # Nothing is kept, and nothing replaced.
    assert before == {path: path.stat().st_mtime_ns for path in requested.directory.iterdir()}


def test_a_build_that_is_slower_and_answers_otherwise_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = read_artifact(EARLIER / "onnx-fp32")
    builds = iter(((0.002, 0), (0.008, 1)))

    def opening(_artifact: Artifact, _runtime: str) -> FakeSession:
        delay, favorite = next(builds)

        def logits(images: Any) -> Any:
            time.sleep(delay)
            one_hot = np.eye(4, dtype=np.float32)[favorite]
            return np.where(images.mean(axis=(1, 2, 3))[:, None] > 0, one_hot, one_hot[::-1])

        return FakeSession(logits, (1, 8, 8), 4)

    monkeypatch.setattr("resnext_export.spread.open_session", opening)
    found = compared([artifact, artifact])
    assert found.ratio(0).median == 1
    assert 2 < found.ratio(1).median < 6
    assert [build.flips for build in found.builds] == [0, found.images]


def test_builds_that_cannot_run_here_are_compared_byte_by_byte() -> None:
    engine = read_artifact(EARLIER / "trt-rtx-fp32")
    found = compared([engine, engine])
    assert found.distinct == 1
    assert found.reason
    assert [(build.rounds_ns, build.flips) for build in found.builds] == [((), None)] * 2


def test_the_command_prints_a_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = read_artifact(EARLIER / "onnx-fp32")
    monkeypatch.setattr("resnext_export.spread.rebuild", lambda *_, **__: artifact)
    at, target = str(artifact.directory), tmp_path / "spread.json"
    how = ["rebuild", at, "--times", "2", "--no-check"]
    done = CliRunner().invoke(main, [*how, "--json", str(target)])
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2 builds: the same bytes"
    assert artifact.manifest.file_sha256[:12] in lines[2]
    raw = json.loads(target.read_text())
    assert raw["distinct"] == 1
    assert [len(build["rounds_ns"]) for build in raw["builds"]] == [5, 5]
    done = CliRunner().invoke(main, [*how, "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "--times keeps no build; drop --output and --force" in done.stderr
