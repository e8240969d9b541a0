"""One bit flipped in each file that a run leaves in the cache: it is made again, never served.

The files are discovered, so that a new kind of cached file without a digest fails here.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from resnext.weights.spec import Weights, load_weights
from resnext_bench import benchmark
from resnext_export import ExportRequest, build_or_reuse

#: Folders of the cache, by what keeps them. The fakes of `test_kernel_cache` and
#: `test_timing_cache` stand for the two that only a GPU fills.
KINDS = {"onnx", "openvino", "trt-rtx", "calibration", "references", "accuracy"}
#: Digests of what was built here, with nothing to make again: a flipped bit is another digest, and
#: costs a warning.
BUILT_HERE = "built-here.txt"


def everything(weights: Weights) -> dict[Any, Any]:
    """Runs all that fills the cache, and returns what it found, times aside."""
    openvino = build_or_reuse(ExportRequest(format="openvino"), weights).artifact.manifest
    # Building is not reproducible to the byte.
    engine = build_or_reuse(ExportRequest(format="trt-rtx"), weights).artifact.manifest
    run = benchmark(
        ["ort-cpu", "openvino"],
        weights=weights,
        batch=2,
        precision=("fp32", "int8"),
        calibration_images=8,
        accuracy="digits",
        accuracy_images=20,
        duration=0.001,
        warmup=0,
        rounds=1,
        samples=1,
        threads=1,
    )
    rows: dict[Any, Any] = {
        # Parity's last bits depend on which references are computed together.
        (row.backend, row.precision): (row.artifact_sha256, row.parity and row.parity.passed)
        for row in run.rows
    }
    rows |= {(row.backend, row.precision, "accuracy"): row.accuracy for row in run.rows}
    return {"openvino": openvino.file_sha256, "trt-rtx": engine.parent_sha256, **rows}


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RESNEXT_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def found(weights: Weights, cache: Path) -> dict[Any, Any]:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("tensorrt_rtx")
    assert list(cache.iterdir()) == []
    return everything(weights)


def rounds_of(cache: Path) -> list[list[Path]]:
    """Every file with content, one of each entry in a round: a flipped bit in an artifact's file
    would hide that one in its manifest was missed.
    """
    entries: dict[Path, list[Path]] = {}
    for path in sorted(cache.rglob("*")):
        if path.is_file() and path.stat().st_size and path.name != BUILT_HERE:
            kind, name = path.relative_to(cache).parts[:2]
            shared = kind in ("references", "accuracy")
            entry = path if shared else cache / kind / Path(name).stem
            entries.setdefault(entry, []).append(path)
    return [[path for path in together if path] for together in zip_longest(*entries.values())]


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.exhaustive
def test_one_bit_flipped_in_any_cached_file_is_made_again(
    found: dict[Any, Any], cache: Path, weights: Weights
) -> None:
    assert {path.name for path in cache.iterdir()} == KINDS | {BUILT_HERE}
    chance = random.Random(11)
    seen = set()
    for files in rounds_of(cache):
        damaged = {}
        for path in files:
            whole = path.read_bytes()
            damaged[path] = flipped(whole, chance.randrange(8 * len(whole)))
            path.write_bytes(damaged[path])
            seen.add(path.relative_to(cache).parts[0])
        assert everything(weights) == found
        assert [path for path in files if path.read_bytes() == damaged[path]] == []
    assert seen == KINDS


@pytest.mark.parametrize("instead", ["file", "link", "dangling link", "pipe"])
def test_an_entry_of_the_store_that_is_no_folder_is_built_again(
    instead: str, found: dict[Any, Any], weights: Weights
) -> None:
    request = ExportRequest(format="openvino")
    entry = build_or_reuse(request, weights).artifact.directory
    elsewhere = entry.with_name("elsewhere")
    entry.rename(elsewhere)
    if instead == "file":
        entry.write_text("in the way")
    elif instead == "pipe":
        os.mkfifo(entry)
    else:
        entry.symlink_to("elsewhere" if instead == "link" else "nowhere")
    again = build_or_reuse(request, weights)
    assert not again.reused
    assert again.artifact.directory.is_dir()
    assert not again.artifact.directory.is_symlink()
    assert again.artifact.manifest.file_sha256 == found["openvino"]
    assert build_or_reuse(request, weights).reused
    shutil.rmtree(elsewhere)
