"""Accuracy over labeled images: the published numbers, every planted fault, and resuming without
doing work twice.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

import resnext.verify.accuracy as module
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadInput, MissingRequirement, ResnextError, SessionFailed, UsageError
from resnext.images.datasets import FASHION_DATA
from resnext.images.sources import ImageSource, image_source
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.storage import write_cached
from resnext.testing import FakeSession
from resnext.verify import eager
from resnext.verify.accuracy import (
    MARGINS,
    Accuracy,
    accuracy_failures,
    accuracy_from_logits,
    measure_accuracy,
    reference_logits_for,
)
from resnext.verify.margins import clopper_pearson
from resnext.weights.spec import Weights, load_weights

Logits = NDArray[Any]
CPU = SessionOptions(device="cpu")
SHA = "5" * 64
needs_fashion = pytest.mark.skipif(
    not FASHION_DATA.is_dir(), reason="needs the Debian package dataset-fashion-mnist"
)


def source_for(weights: Weights, spec: str, limit: int | None = None) -> ImageSource:
    return image_source(
        spec,
        weights.preprocessing,
        split="test",
        limit=limit,
        classes=weights.config.num_classes,
        class_names=weights.class_names,
    )


@pytest.fixture(scope="module")
def digits() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def source(digits: Weights) -> ImageSource:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return source_for(digits, "digits")


@pytest.fixture(scope="module")
def reference(
    digits: Weights, source: ImageSource, tmp_path_factory: pytest.TempPathFactory
) -> Logits:
    return reference_logits_for(digits, source, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """90 digits in six chunks."""
    monkeypatch.setattr(module, "_CHUNK_IMAGES", 16)


@pytest.fixture(scope="module")
def few(digits: Weights) -> ImageSource:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return source_for(digits, "digits", limit=90)


@pytest.fixture(scope="module")
def few_logits(
    digits: Weights, few: ImageSource, tmp_path_factory: pytest.TempPathFactory
) -> Logits:
    return reference_logits_for(digits, few, tmp_path_factory.mktemp("few"))


def replay(
    reference: Logits, alter: Callable[[Logits], Logits] = lambda logits: logits
) -> Callable[[Logits], Logits]:
    """What a session computes that gives the reference's logits in order, altered; copies at the
    end are zeros.
    """
    at = 0

    def function(images: Logits) -> Logits:
        nonlocal at
        part = alter(reference[at : at + len(images)].copy())
        at += len(images)
        return np.pad(part, ((0, len(images) - len(part)), (0, 0)))

    return function


def judged(
    digits: Weights,
    source: ImageSource,
    reference: Logits,
    alter: Callable[[Logits], Logits] = lambda logits: logits,
) -> Accuracy:
    session = FakeSession(replay(reference, alter), (1, 8, 8), 10)
    return measure_accuracy(
        session, source, reference, batch=50, baked=False, preprocessing=digits.preprocessing
    )


# ---- the numbers that the README states


def test_digits_through_pytorch_are_right_on_353_of_359(
    digits: Weights, source: ImageSource, tmp_path: Path
) -> None:
    reference = reference_logits_for(digits, source, tmp_path)
    with open_session(digits, "torch", options=CPU) as session:
        found = measure_accuracy(
            session, source, reference, batch=50, baked=False, preprocessing=digits.preprocessing
        )
    assert (found.images, round(found.top1 * 359), round(found.reference_top1 * 359)) == (
        359,
        353,
        353,
    )
    assert (found.top1_low, found.top1_high) == clopper_pearson(353, 359)
    assert (found.agreement, found.flips, found.nonfinite) == (1, 0, 0)
    assert found.agreement_low == clopper_pearson(359, 359)[0]
    assert (found.source, found.digest, found.backend) == ("digits test", source.digest, "torch")
    assert accuracy_failures(found) == ()
    assert Accuracy.model_validate_json(found.model_dump_json()) == found


@pytest.mark.slow
def test_digits_through_onnx_runtime_are_as_often_right(
    digits: Weights, source: ImageSource, reference: Logits, tmp_path: Path
) -> None:
    from exported import export_onnx
    from resnext.artifact.manifest import BatchRange

    # A fixed batch that does not divide 359, and one with the normalization inside.
    for name, options in {
        "fixed": {"batch": BatchRange.parse("7")},
        "baked": {"bake_preprocessing": True},
    }.items():
        artifact = export_onnx(digits, tmp_path / name, **options)  # type: ignore[arg-type]  # of two kinds
        manifest = artifact.manifest
        with open_session(artifact, "ort-cpu", options=CPU) as session:
            found = measure_accuracy(
                session,
                source,
                reference,
                baked=manifest.preprocessing_baked,
                preprocessing=manifest.prepared,
                resume=tmp_path / "resume",
                artifact_sha256=manifest.file_sha256,
            )
        assert (round(found.top1 * 359), found.flips, found.backend) == (353, 0, "ort-cpu")
        assert found.artifact_sha256 == manifest.file_sha256
        assert accuracy_failures(found) == ()


@pytest.mark.exhaustive
@needs_fashion
def test_fashion_mnist_is_right_on_91_4_percent_of_ten_thousand(tmp_path: Path) -> None:
    weights = load_weights("fashion-mnist")
    source = source_for(weights, "fashion-mnist")
    reference = reference_logits_for(weights, source, tmp_path)
    assert source.labels is not None
    found = accuracy_from_logits(
        reference, reference, source.labels, source=source, backend="torch"
    )
    assert found.images == 10_000
    assert round(found.top1, 3) == 0.914
    assert found.top5 is not None
    assert 0.99 < found.top5 < 1


# ---- what is counted


def test_flips_are_counted_by_who_loses_and_by_margin(source: ImageSource) -> None:
    # Reference's first class is 0 everywhere; its margin grows. Root mean square about 1.
    margins = np.array([0.005, 0.02, 0.05, 0.2, 0.5, 2.0, 2.0, 2.0])
    reference = np.tile(np.array([1.0, 1.0, -1.0, -1.0, 1.0, -1.0]), (8, 1))
    reference[:, 4] = 0.9
    reference[:, 0] += margins
    rms = float(np.sqrt((reference**2).mean()))
    labels = np.array([0, 0, 0, 1, 2, 0, 0, 3])
    candidate = reference.copy()
    for row in (0, 3, 4, 5):
        candidate[row, 1] = 9  # image 0, 5: right to wrong; 3: wrong to right; 4: wrong to wrong
    candidate[6, 5] = np.nan
    found = accuracy_from_logits(candidate, reference, labels, source=source, backend="fake")
    assert (found.flips, found.losing_flips, found.winning_flips, found.nonfinite) == (5, 3, 1, 1)
    assert (found.top1, found.reference_top1, found.agreement) == (3 / 8, 5 / 8, 3 / 8)
    assert found.constant_top1 == 5 / 8
    assert [entry.below for entry in found.flips_by_margin] == [*MARGINS, None]
    bins = np.searchsorted(MARGINS, margins / rms, side="right")
    assert [entry.images for entry in found.flips_by_margin] == np.bincount(
        bins, minlength=6
    ).tolist()
    assert [entry.flips for entry in found.flips_by_margin] == np.bincount(
        bins[[0, 3, 4, 5, 6]], minlength=6
    ).tolist()
    # Of six classes the sixth falls out, which is no image's label; NaN has no label among its
    # first.
    assert found.top5 == 7 / 8


def test_top5_is_left_out_where_it_says_nothing(source: ImageSource) -> None:
    reference = np.eye(5)
    found = accuracy_from_logits(reference, reference, np.arange(5), source=source, backend="fake")
    assert (found.top5, found.top5_low, found.top5_high) == (None, None, None)


def test_a_constant_output_has_half_of_ten_labels_among_its_first_five(
    digits: Weights, source: ImageSource, reference: Logits
) -> None:
    found = judged(digits, source, reference, np.zeros_like)
    assert found.top5 is not None
    assert 0.4 < found.top5 < 0.6
    assert found.top1 == pytest.approx(0.1, abs=0.03)
    assert accuracy_failures(found)


def test_the_last_batch_is_filled_and_its_copies_are_dropped(
    digits: Weights, source: ImageSource, reference: Logits
) -> None:
    seen: list[Logits] = []

    def keep(images: Logits) -> Logits:
        seen.append(images)
        return np.zeros((len(images), 10), np.float32)

    session = FakeSession(keep, (1, 8, 8), 10)
    session.inputs = (TensorSpec(name="input", dtype="float32", shape=(100, 1, 8, 8)),)
    found = measure_accuracy(
        session, source, reference, baked=False, preprocessing=digits.preprocessing
    )
    assert found.images == 359
    assert [len(images) for images in seen] == [100] * 4
    np.testing.assert_array_equal(seen[3][59:], seen[3][:41])
    everything = digits.preprocessing.normalize(source.pixels(0, 359))
    np.testing.assert_array_equal(np.concatenate(seen)[:359], everything)


def test_baked_sessions_get_pixels(digits: Weights, source: ImageSource, reference: Logits) -> None:
    seen: list[Logits] = []

    def keep(images: Logits) -> Logits:
        seen.append(images)
        return np.zeros((len(images), 10), np.float32)

    session = FakeSession(keep, (8, 8, 1), 10)
    session.inputs = (TensorSpec(name="input", dtype="uint8", shape=(None, 8, 8, 1)),)
    measure_accuracy(session, source, reference, baked=True, preprocessing=digits.preprocessing)
    assert len(seen[0]) == 32  # where nobody chose
    np.testing.assert_array_equal(np.concatenate(seen)[:359], source.pixels(0, 359))
    with pytest.raises(BadInput, match="dtype float32, want uint8"):
        measure_accuracy(
            session, source, reference, baked=False, preprocessing=digits.preprocessing
        )


# ---- the gate, and what is planted for it


def poisoned(logits: Logits) -> Logits:
    logits[3, 2] = np.nan
    return logits


def infinite(logits: Logits) -> Logits:
    logits[3, logits[3].argmax()] = np.inf  # its first class stays the same
    return logits


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (poisoned, "8 of 359 images give NaN"),
        (infinite, "8 of 359 images give NaN"),
        (lambda logits: logits[:, ::-1].copy(), "agree with the reference's on"),
        (lambda logits: np.roll(logits, 1, axis=1), "under the reference's 98.33%"),
        (lambda logits: np.roll(logits, 1, axis=0), "agree with the reference's on"),
        (lambda logits: np.full_like(logits, np.nan), "359 of 359 images"),
    ],
    ids=[
        "NaN in a row",
        "infinity in a row",
        "classes reversed",
        "classes shifted",
        "rows shifted",
        "all NaN",
    ],
)
def test_a_planted_fault_is_caught(
    digits: Weights,
    source: ImageSource,
    reference: Logits,
    alter: Callable[[Logits], Logits],
    reason: str,
) -> None:
    failures = accuracy_failures(judged(digits, source, reference, alter))
    assert any(reason in failure for failure in failures), failures
    assert all("\n" not in failure for failure in failures)


def test_one_row_of_nan_fails_however_loose_the_gate(
    source: ImageSource, reference: Logits
) -> None:
    spoiled = reference.copy()
    spoiled[17, 4] = np.nan
    found = accuracy_from_logits(spoiled, reference, source.labels, source=source, backend="fake")  # type: ignore[arg-type]  # it has labels
    assert (found.nonfinite, found.flips) == (1, 1)
    assert accuracy_failures(found, max_top1_loss=1, min_agreement=0) == (
        "1 of 359 images give NaN or infinite logits",
    )


@pytest.mark.parametrize("shift", [1, 5])
def test_shifted_labels_are_caught_though_nothing_is_lost(
    digits: Weights, source: ImageSource, reference: Logits, shift: int
) -> None:
    assert source.labels is not None
    shifted = replace(source, labels=(source.labels + shift) % 10)
    found = judged(digits, shifted, reference)
    assert (found.agreement, found.top1) == (1, found.reference_top1)
    [failure] = accuracy_failures(found)
    assert "no better than one answer for all" in failure


def test_labels_in_random_order_are_caught(
    digits: Weights, source: ImageSource, reference: Logits
) -> None:
    assert source.labels is not None
    shuffled = replace(source, labels=np.random.default_rng(0).permutation(source.labels))
    assert any(
        "no better than one answer" in failure
        for failure in accuracy_failures(judged(digits, shuffled, reference))
    )


def test_a_wrong_normalization_of_the_candidate_is_caught(
    digits: Weights, source: ImageSource, reference: Logits
) -> None:
    wrong = digits.preprocessing.model_copy(update={"mean": (-0.7,)})
    with open_session(digits, "torch", options=CPU) as session:
        found = measure_accuracy(
            session, source, reference, batch=50, baked=False, preprocessing=wrong
        )
    assert any("agree with" in failure for failure in accuracy_failures(found)), found


def three_bits(weights: Weights) -> Weights:
    """Every kernel rounded to the seven levels -3 to 3 of its channel, symmetric."""
    state = dict(weights.state_dict)
    for name, value in state.items():
        if name.endswith("weight") and value.ndim > 1:
            step = (
                value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True).clamp(min=1e-12) / 3
            )
            state[name] = (value / step).round() * step
    return replace(weights, state_dict=state)


@pytest.mark.exhaustive
@needs_fashion
def test_weights_of_three_bits_are_caught(tmp_path: Path) -> None:
    weights = load_weights("fashion-mnist")
    source = source_for(weights, "fashion-mnist", limit=2000)
    reference = reference_logits_for(weights, source, tmp_path)
    with open_session(three_bits(weights), "torch", options=CPU) as session:
        found = measure_accuracy(
            session, source, reference, batch=100, baked=False, preprocessing=weights.preprocessing
        )
    assert found.reference_top1 > 0.9
    assert found.top1_high < found.reference_top1_low
    failures = accuracy_failures(found)
    assert any("under the reference's" in failure for failure in failures), failures
    assert any("agree with the reference's" in failure for failure in failures), failures
    assert found.flips_by_margin[-1].flips > 0


def made_up(losing: int, winning: int, both: int, images: int, source: ImageSource) -> Accuracy:
    """An outcome with so many flips; ``both`` of them wrong before and after. The reference's
    margin is wide.
    """
    reference = np.zeros((images, 6))
    labels = np.arange(images) % 6
    reference[np.arange(images), labels] = 3
    candidate = reference.copy()
    for target, start, count in ((candidate, 0, losing), (reference, losing, winning)):
        rows = np.arange(start, start + count)
        target[rows] = np.roll(target[rows], 1, axis=1)
    for target, by in ((reference, 1), (candidate, 2)):
        rows = np.arange(losing + winning, losing + winning + both)
        target[rows] = np.roll(target[rows], by, axis=1)
    return accuracy_from_logits(candidate, reference, labels, source=source, backend="fake")


@pytest.mark.parametrize(
    ("losing", "winning", "both", "failed"),
    [
        (10, 0, 0, ""),
        (11, 0, 0, "top-1 98.90% is 1.10% under the reference's 100.00%, and may be 1.00%"),
        (15, 5, 0, ""),
        (15, 4, 0, "is 1.10% under"),
        (0, 0, 20, ""),
        (0, 0, 21, "on 97.90% of 1000 images, want 98.00%"),
        (0, 21, 0, "on 97.90%"),
    ],
)
def test_the_gate_closes_just_past_its_limits(
    source: ImageSource, losing: int, winning: int, both: int, failed: str
) -> None:
    failures = accuracy_failures(made_up(losing, winning, both, 1000, source))
    assert len(failures) == bool(failed)
    assert failed in "".join(failures)


def test_a_limit_that_is_not_a_number_lets_nothing_through(source: ImageSource) -> None:
    found = made_up(0, 0, 0, 1000, source)
    assert accuracy_failures(found) == ()
    assert (
        len(accuracy_failures(found, max_top1_loss=float("nan"), min_agreement=float("nan"))) == 2
    )


def test_too_few_images_prove_nothing(source: ImageSource) -> None:
    assert "too few" in "".join(accuracy_failures(made_up(0, 0, 0, 2, source)))


def test_the_outcome_is_frozen_and_strict(source: ImageSource) -> None:
    found = made_up(0, 0, 0, 12, source)
    with pytest.raises(ValidationError, match="frozen"):
        found.top1 = 1.0  # type: ignore[misc]  # that is the test
    for change in ({"surprise": 1}, {"top1": 1.2}, {"digest": "abc"}, {"flips": -1}):
        with pytest.raises(ValidationError):
            Accuracy.model_validate({**found.model_dump(), **change})


# ---- calls that cannot be served


def test_what_cannot_be_measured_is_refused(
    digits: Weights, source: ImageSource, reference: Logits
) -> None:
    def call(error: type[ResnextError], message: str, **changes: Any) -> None:
        arguments = {
            "session": FakeSession(None, (1, 8, 8), 10),
            "source": source,
            "reference": reference,
            "baked": False,
            "preprocessing": digits.preprocessing,
        }
        with pytest.raises(error, match=message) as caught:
            measure_accuracy(**{**arguments, **changes})
        assert "\n" not in str(caught.value)

    labels = source.labels
    assert labels is not None
    fixed = FakeSession(None, (1, 8, 8), 10)
    fixed.inputs = (TensorSpec(name="input", dtype="float32", shape=(4, 1, 8, 8)),)
    call(UsageError, "has no labels", source=replace(source, labels=None))
    call(UsageError, r"shape \(100, 10\), want 359 x classes", reference=reference[:100])
    call(UsageError, "reference itself is NaN", reference=reference * np.nan)
    call(UsageError, "the session takes batch 4, not 5", session=fixed, batch=5)
    call(UsageError, "the session takes batch of at least 1, not 0", batch=0)
    call(
        UsageError,
        "another preprocessing",
        preprocessing=digits.preprocessing.model_copy(update={"resize": 9}),
    )
    call(UsageError, "live model", resume=Path("anywhere"))
    call(
        BadInput,
        "labels 1 to 10, and the network 10 classes",
        source=replace(source, labels=labels + 1),
    )
    call(BadInput, "labels -1 to 8", source=replace(source, labels=labels - 1))
    call(
        SessionFailed, r"shape \(32, 7\), want \(32, 10\)", session=FakeSession(None, (1, 8, 8), 7)
    )


def test_a_reference_needs_images_read_as_the_weights_say(digits: Weights, tmp_path: Path) -> None:
    other = digits.preprocessing.model_copy(update={"interpolation": "bicubic"})
    with pytest.raises(UsageError, match="another preprocessing"):
        reference_logits_for(digits, image_source("digits", other, split="test", limit=5), tmp_path)


# ---- resuming


class Stopped(Exception):
    pass


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Count the images of each chunk of reference logits that is computed; stop in the midst of
    one, if asked.
    """
    chunks: list[int] = []
    real = eager.reference_logits

    def counting(weights: Weights, images: Logits, dtype: Any) -> Logits:
        if len(chunks) == stop_after:
            raise Stopped
        chunks.append(len(images))
        return real(weights, images, dtype)

    monkeypatch.setattr(eager, "reference_logits", counting)
    return chunks


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_reference_goes_on_where_it_stopped(
    digits: Weights, few: ImageSource, few_logits: Logits, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        counted(patched, stop_after=2)
        with pytest.raises(Stopped):
            reference_logits_for(digits, few, tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        chunks = counted(patched)
        resumed = reference_logits_for(digits, few, tmp_path)
        assert chunks == [16, 16, 16, 10]
        again = reference_logits_for(digits, few, tmp_path)
        assert len(chunks) == 4
    np.testing.assert_array_equal(resumed, few_logits)
    np.testing.assert_array_equal(again, few_logits)
    assert resumed.dtype == np.float32


@pytest.mark.usefixtures("small_chunks")
def test_logits_of_other_weights_images_or_preprocessing_are_not_taken(
    digits: Weights, few: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference_logits_for(digits, few, tmp_path)
    chunks = counted(monkeypatch)
    reference_logits_for(three_bits(digits), few, tmp_path)
    assert len(chunks) == 6
    first = image_source("digits", digits.preprocessing, split="calibration", limit=90)
    reference_logits_for(digits, first, tmp_path)
    assert len(chunks) == 12
    reference_logits_for(
        replace(digits, preprocessing=digits.preprocessing.model_copy(update={"mean": (0.0,)})),
        few,
        tmp_path,
    )
    assert len(chunks) == 18


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_another_shape(path: Path) -> None:
    stored(path, np.zeros((3, 10), np.float32))


def pickled(path: Path) -> None:
    stored(path, np.array([{"a": 1}], object))


def stored(path: Path, array: NDArray[Any]) -> None:
    """``array`` behind a digest that is right."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    write_cached(path, stream.getvalue())


def one_bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in a logit
    path.write_bytes(data)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "damage", [cut_short, emptied, of_another_shape, pickled, one_bit_flipped, Path.unlink]
)
def test_a_damaged_chunk_is_computed_again(
    digits: Weights,
    few: ImageSource,
    few_logits: Logits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    reference_logits_for(digits, few, tmp_path)
    kept = sorted(tmp_path.rglob("*.npy"))
    assert len(kept) == 6
    damage(kept[2])
    chunks = counted(monkeypatch)
    np.testing.assert_array_equal(reference_logits_for(digits, few, tmp_path), few_logits)
    assert chunks == [16]


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_is_written_whole_or_not_at_all(
    digits: Weights,
    few: ImageSource,
    few_logits: Logits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)  # the data is written, and its name is not yet there
        with pytest.raises(MissingRequirement, match="No space left on device; free some room"):
            reference_logits_for(digits, few, tmp_path)
    assert list(tmp_path.rglob("*.npy")) == []
    np.testing.assert_array_equal(reference_logits_for(digits, few, tmp_path), few_logits)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".npy", ""}


def test_a_folder_that_cannot_be_used_is_named(
    digits: Weights, few: ImageSource, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MissingRequirement, match=r"cannot keep logits in .*file"):
        reference_logits_for(digits, few, tmp_path / "file")


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_candidate_goes_on_where_it_stopped(
    digits: Weights, few: ImageSource, few_logits: Logits, tmp_path: Path
) -> None:
    calls: list[int] = []
    projection = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)

    def candidate(stop_after: int | None = None) -> FakeSession:
        def function(images: Logits) -> Logits:
            if len(calls) == stop_after:
                raise Stopped
            calls.append(len(images))
            logits = images.reshape(len(images), 64) @ projection
            logits[0, 0] = np.nan if len(calls) == 1 else logits[0, 0]
            return logits

        return FakeSession(function, (1, 8, 8), 10)

    def measured(
        session: FakeSession, sha256: str = SHA, batch: int = 4, **changes: Any
    ) -> Accuracy:
        preprocessing = digits.preprocessing.model_copy(update=changes)
        return measure_accuracy(
            session,
            few,
            few_logits,
            batch=batch,
            baked=False,
            preprocessing=preprocessing,
            resume=tmp_path,
            artifact_sha256=sha256,
        )

    with pytest.raises(Stopped):
        measured(candidate(stop_after=10))  # two chunks of four runs, and two runs of the third
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    calls.append(0)  # the first call of all is behind us
    before = len(calls)
    found = measured(candidate())
    assert len(calls) - before == 15  # of 23
    assert found.nonfinite == 1  # what was kept of the first chunk tells still
    assert measured(candidate()) == found
    assert len(calls) - before == 15
    named = candidate()
    named.backend = "other"
    for session, sha256, batch, mean in (
        (named, SHA, 4, None),
        (candidate(), "6" * 64, 4, None),
        (candidate(), SHA, 8, None),
        (candidate(), SHA, 4, (0.3,)),
    ):
        before = len(calls)
        measured(session, sha256, batch, **({"mean": mean} if mean else {}))
        assert len(calls) > before, (session.backend, sha256, batch, mean)


@pytest.mark.usefixtures("small_chunks")
def test_progress_is_shown_by_chunk(digits: Weights, few: ImageSource, tmp_path: Path) -> None:
    shown: list[tuple[str, list[int]]] = []

    def note(items: Iterable[int], description: str) -> Iterable[int]:
        shown.append((description, list(items)))
        return shown[-1][1]

    reference_logits_for(digits, few, tmp_path, track=note)
    assert shown == [("reference logits in PyTorch", [0, 16, 32, 48, 64, 80])]


@pytest.mark.exhaustive
def test_processes_that_share_a_folder_share_the_work(reference: Logits, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\nimport resnext.verify.accuracy"
        " as module\nfrom resnext.verify import eager\nfrom"
        " resnext.images.sources import image_source\nfrom resnext.weights.spec import"
        " load_weights\nmodule._CHUNK_IMAGES = 8\nreal, count = eager.reference_logits,"
        " 0\ndef counting(*arguments):\n    global count\n    count += 1\n    return"
        " real(*arguments)\neager.reference_logits = counting\nweights ="
        " load_weights('digits')\nsource = image_source('digits', weights.preprocessing,"
        " split='test')\nnp.save(sys.argv[2], module.reference_logits_for(weights, source,"
        " Path(sys.argv[1])))\nprint(count)\n"
    )
    outputs = [tmp_path / f"{number}.npy" for number in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "kept"), str(output)],
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
            },  # threads of three processes would stand in each other's way
        )
        for output in outputs
    ]
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 45
    for output in outputs:
        np.testing.assert_allclose(np.load(output), reference, rtol=1e-4, atol=1e-5)
