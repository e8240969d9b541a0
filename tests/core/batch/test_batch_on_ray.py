"""Batch inference on a real cluster of two nodes on the loopback address; one is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exported import export_onnx
from fakes.ray_cluster import OTHER, ray_cluster
from fakes.shelves import folder_of, levels
from resnext.batch import run
from resnext.batch.run import classify_shards
from resnext.images.shards import folder
from resnext.weights.spec import load_weights


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with ray_cluster(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.exhaustive
def test_a_killed_node_loses_no_shard_and_changes_no_byte(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_PICTURES", 64)
    source = folder_of(tmp_path / "in", levels(1920))
    artifact = export_onnx(load_weights("digits"), tmp_path / "artifact", check=False)
    classify_shards(artifact, source, tmp_path / "one", logits=True, batch=8)
    node = cluster.add_node(num_cpus=1, node_ip_address=OTHER)
    receipts = tmp_path / "ray" / "receipts"
    killed: list[Any] = []

    def workers() -> set[str]:
        return {json.loads(path.read_text())["worker"] for path in receipts.glob("*.json")}

    def kill_once_both_work(_: str) -> None:
        if not killed and len(workers()) > 1:
            cluster.remove_node(node, allow_graceful=False)
            killed.append(node)

    monkeypatch.setattr(run, "_LINE_S", 0.0)
    summary = classify_shards(
        artifact,
        source,
        tmp_path / "ray",
        logits=True,
        batch=8,
        threads=1,
        ray=cluster.address,
        progress=kill_once_both_work,
    )
    assert killed
    assert not summary.failed_shards
    assert summary.rows == 1920
    assert len(summary.shards) == len({it.part for it in summary.shards}) == 30
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("part-*")}
        for name in ("one", "ray")
    )
    assert one == two
