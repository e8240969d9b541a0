from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from resnext.artifact.files import Artifact, read_artifact
from resnext.artifact.identity import (
    different_facts,
    different_tensors,
    file_facts,
    refuse_different,
)
from resnext.artifact.manifest import Manifest
from resnext.errors import BadArtifact
from resnext.network.config import variant

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"


@pytest.fixture
def artifact() -> Artifact:
    return read_artifact(EARLIER / "onnx-fp32")


def facts(manifest: Manifest) -> dict[str, str]:
    return file_facts(
        weights_sha256=manifest.weights.sha256,
        preprocessing=manifest.prepared,
        preprocessing_baked=manifest.preprocessing_baked,
        class_names=manifest.class_names,
        config=manifest.config,
    )


def test_a_manifest_agrees_with_its_own_facts(artifact: Artifact) -> None:
    manifest = artifact.manifest
    assert different_facts(manifest, facts(manifest).get, config=True) == []
    assert different_tensors(manifest, manifest.inputs, manifest.outputs) == []
    refuse_different(artifact, [])


@pytest.mark.parametrize(
    "key", ["config", "weights_sha256", "preprocessing", "preprocessing_baked", "class_names"]
)
def test_each_fact_that_was_altered_or_removed_is_named(artifact: Artifact, key: str) -> None:
    written = facts(artifact.manifest)
    assert f"resnext.{key}" in written
    for altered in ({**written, f"resnext.{key}": "altered"}, dict(written)):
        if altered == written:
            del altered[f"resnext.{key}"]
        assert different_facts(artifact.manifest, altered.get, config=True) == [key]


def test_a_file_without_a_configuration_is_not_asked_for_one(artifact: Artifact) -> None:
    other = dataclasses.replace(variant("resnet50"), num_classes=7)
    manifest = artifact.manifest.model_copy(update={"config": other})
    written = facts(artifact.manifest)
    assert different_facts(manifest, written.get) == []
    assert different_facts(manifest, written.get, config=True) == ["config"]


def test_differences_are_refused_in_one_line_with_what_to_do(artifact: Artifact) -> None:
    manifest = artifact.manifest
    different = different_tensors(manifest, manifest.outputs, manifest.inputs)
    with pytest.raises(BadArtifact) as refused:
        refuse_different(artifact, different)
    assert str(refused.value) == (
        f"the manifest of {artifact.path} does not agree with the file on inputs, outputs;"
        " one of them was altered: export the artifact again"
    )
