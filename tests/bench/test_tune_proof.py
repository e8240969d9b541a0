"""What a search demands of a candidate on a real session before it is timed, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.here import HERE
from fakes.tuned import search
from resnext.artifact.files import read_artifact
from resnext.errors import BadArtifact
from resnext.runtimes.ort.session import OrtSession
from resnext.verify.labeled import Labeled
from resnext.weights.spec import Weights, load_weights
from resnext_bench.tune.output import write_output
from resnext_bench.tune.request import checked_request
from resnext_bench.tune.result import Tuned
from resnext_bench.tune.space import Point
from resnext_bench.tune.workshop import Bench
from resnext_export import export

Plant = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


def as_it_is(_pixels: Any, logits: Any) -> Any:
    return logits


def swapped(_pixels: Any, logits: Any) -> Any:
    return logits[::-1]


def _are_scans(pixels: Any) -> bool:
    """The digits have 17 gray levels; the images of parity have one or two, or hundreds."""
    return 9 < len(np.unique(pixels)) < 18


def wrong_on_scans(pixels: Any, logits: Any) -> Any:
    return np.roll(logits, 1, axis=1) if _are_scans(pixels) else logits


def no_numbers_on_scans(pixels: Any, logits: Any) -> Any:
    return logits * np.float32("nan") if _are_scans(pixels) else logits


#: What is planted, the gates, why it is out ("" if it is not), whether labeled images were run.
PROVEN: dict[str, tuple[Plant, str, str, bool]] = {
    "right": (as_it_is, "agreement>=0.99,size<=1MB", "", True),
    "too large": (as_it_is, "size<=1kB", "size", True),
    "wrong on labeled images alone": (wrong_on_scans, "agreement>=0.5", "agreement 0", True),
    "no numbers, and no gate on answers": (no_numbers_on_scans, "size<=1MB", "give NaN", True),
    "wrong": (swapped, "agreement>=0.99", "rows are swapped", False),
}


@pytest.mark.parametrize("case", PROVEN)
def test_a_candidate_is_proven_on_its_own_session(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    plant, gate, reason, ran = PROVEN[case]
    real = OrtSession.run

    def run(self: OrtSession, inputs: Any) -> Any:
        (pixels,) = inputs.values()
        return {name: plant(pixels, logits) for name, logits in real(self, inputs).items()}

    monkeypatch.setattr(OrtSession, "run", run)
    point = Point("ort-cpu", batch=4)
    request = checked_request(digits, "latency", gate=gate)
    labeled = Labeled("digits", digits, 40, tmp_path)
    bench = Bench(request, [point], labeled, HERE, lambda _: None)
    with ExitStack() as stack:
        opening = bench.open(point, stack)
        assert opening.error is None
        proof = bench.prove(point, opening, None)
    assert (proof.fall is not None) == bool(reason)
    if proof.fall is not None:
        assert proof.fall.outcome == "gate"
        assert reason in proof.fall.reason
    assert (proof.accuracy is not None) == ran


@pytest.mark.parametrize(
    ("point", "layout"), [(Point("torch"), "channels-last"), (Point("ort-cpu"), "auto")]
)
def test_the_baseline_is_pytorch_in_its_fastest_layout(
    digits: Weights, point: Point, layout: str
) -> None:
    request = checked_request(digits, "latency")
    bench = Bench(request, [point], None, HERE, lambda _: None)
    with ExitStack() as stack:
        opening = bench.open(point, stack)
        assert opening.options is not None
        assert opening.options.memory_format == layout


def test_the_output_says_how_the_pick_is_made_again_without_timing(
    digits: Weights, tmp_path: Path
) -> None:
    widths = "layer1=16,layer3=32"
    artifact = export(digits, tmp_path / "built", check=False, merge_groups=widths)
    point = Point("ort-cpu", merge="auto")
    found = Tuned.model_validate(search().model_dump())
    with pytest.raises(BadArtifact, match="is not the artifact that was measured"):
        write_output(
            *(found, artifact, point, checked_request(digits, "latency"), tmp_path / "best"),
            force=False,
        )
    sha256 = artifact.manifest.file_sha256
    picked = found.candidates[0].model_copy(update={"artifact_sha256": sha256})
    write_output(
        found.model_copy(update={"candidates": (picked, *found.candidates[1:])}),
        *(artifact, point, checked_request(digits, "latency"), tmp_path / "best"),
        force=False,
    )
    written = read_artifact(tmp_path / "best")
    assert written.manifest.file_sha256 == artifact.manifest.file_sha256
    assert written.manifest.request is not None
    assert written.manifest.request["merge_groups"] == widths
