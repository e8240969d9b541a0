"""Measures the claim of `resnext-batch` that the session is busy for at least 95 % of the time.

    python benchmarks/batch_busy.py [ARTIFACT] [--images N]

1. A session that sleeps 50 ms for a batch of 64, whose pictures take little to decode.
2. ``ort-cpu`` with ARTIFACT, or else ResNeXt-50 with seeded weights, on pictures of 224 pixels,
   with the threads that the command chooses.

Fails where a claim is missed and decoding was not the bound. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resnext.artifact.files import Artifact, read_artifact
from resnext.batch.flow import Failed
from resnext.batch.pipeline import Pipeline
from resnext.batch.plan import Planned
from resnext.batch.receipt import Receipt
from resnext.batch.request import Request
from resnext.batch.run import classify_shards
from resnext.batch.summary import BUSY, bound_of, total
from resnext.images.preprocessing import Preprocessing
from resnext.images.shards.find import find_shards
from resnext.images.shards.shard import shard_id
from resnext.testing import FakeSession
from resnext.timing.clock import now_ns
from resnext.weights.spec import load_weights
from resnext_export.pipeline import run as export
from resnext_export.request import ExportRequest

SLEEP_S, BATCH = 0.05, 64


def sleeping(images: NDArray[Any]) -> NDArray[Any]:
    """Logits after a while that nobody else can use."""
    time.sleep(SLEEP_S)
    return np.zeros((len(images), 10), np.float32)


def make_pictures(folder: Path, count: int, size: int) -> Path:
    """JPEGs of noise that was smoothed, which decode as photos do."""
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (size // 4, size // 4, 3), np.uint8)
        image = PIL.Image.fromarray(noise).resize((size, size), PIL.Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(file.getvalue())
    return folder


def share_of_sleeper(scratch: Path, count: int) -> tuple[float, str]:
    """Busy share with the session that sleeps, and what bounded it."""
    pixels = Preprocessing(resize=32, crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    request = Request(
        input="",
        artifact_sha256="0" * 64,
        preprocessing=pixels,
        backend="sleeping",
        batch=BATCH,
        top=5,
        logits=False,
        format="jsonl",
    )
    session = FakeSession(sleeping, (3, 32, 32), 10)
    source = make_pictures(scratch / "small", count, 32)
    shards = [Planned(shard_id(it, request.facts), it) for it in find_shards(source)]
    pipeline = Pipeline(session, request, scratch / "sleeper")
    pipeline.warm_up()
    receipts: list[Receipt] = []
    began = now_ns()
    for outcome in pipeline.run(shards):
        if isinstance(outcome, Failed):
            raise outcome.error
        receipts.append(outcome)
    return bound_of(total(receipts, now_ns() - began), 1)


def share_of_ort(scratch: Path, artifact: Artifact, count: int) -> tuple[float, str]:
    """Busy share with ONNX Runtime on the CPU, and what bounded it."""
    source = make_pictures(scratch / "pictures", count, 224)
    summary = classify_shards(artifact, source, scratch / "ort", backend="ort-cpu")
    assert summary.busy_share is not None
    assert summary.bound is not None
    return summary.busy_share, summary.bound


def main() -> int:
    """Measure both, print a line for each, and return how many claims were missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=512)
    asked = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        # First, in a process without the leftovers of an export, as the command's is.
        results = {"sleeping session": share_of_sleeper(scratch, 4096)}
        if asked.artifact is None:
            weights = load_weights("seeded", "resnext50_32x4d")
            artifact = export(ExportRequest(), scratch / "artifact", weights=weights, check=False)
        else:
            artifact = read_artifact(asked.artifact)
        results["ort-cpu"] = share_of_ort(scratch, artifact, asked.images)
        for title, (share, bound) in results.items():
            kept = share >= BUSY or (title == "ort-cpu" and bound in ("decode", "read"))
            missed += not kept
            verdict = "kept" if kept else "MISSED"
            sys.stdout.write(f"{title:18} busy {share:.1%}, bound by {bound}: {verdict}\n")
    return missed


if __name__ == "__main__":
    sys.exit(main())
