"""The pipeline: rows that depend on the pictures alone, and nothing that ends it in silence."""

from __future__ import annotations

import errno
import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from fakes.batches import Listed, mixing, pipeline_of, planned, request_of
from fakes.shelves import folder_of, levels, png, saved, tar_of
from resnext.batch import flow
from resnext.batch.flow import Failed, Progress
from resnext.batch.parts import FORMATS
from resnext.batch.plan import Planned
from resnext.batch.receipt import Receipt
from resnext.batch.worker import Running
from resnext.errors import BadInput, MissingRequirement, NeverReturned, SessionFailed
from resnext.images.pictures import MOST_PIXELS
from resnext.images.shards import folder
from resnext.images.shards.shard import Picture

LEVELS = dict(levels(11))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven pictures, of which two are bad, in shards of six."""
    monkeypatch.setattr(folder, "MOST_PICTURES", 6)
    return folder_of(tmp_path / "in", (LEVELS | {"0002.png": b"text", "0007.png": b""}).items())


def rows(output: Path) -> list[dict[str, Any]]:
    """Rows of all parts, by key."""
    text = "".join(path.read_text("utf-8") for path in output.glob("part-*.jsonl"))
    lines = text.split("\n")[:-1]
    return sorted((json.loads(line) for line in lines), key=lambda row: row["key"])


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def receipts(outcomes: Any) -> list[Receipt]:
    found = list(outcomes)
    assert all(isinstance(it, Receipt) for it in found), found
    return found


# ---- rows


def test_a_row_has_classes_with_names_or_an_error(source: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(tmp_path / "out", class_names=("ant", "bee", "cat"))
    first, second = receipts(pipeline.run(planned(source)))
    found = rows(tmp_path / "out")
    assert [row["key"] for row in found] == sorted(LEVELS)
    assert found[2]["error"] == (
        "0002.png is not an image of a format that is read here (JPEG, PNG, PPM, BMP, TIFF, WEBP,"
        " GIF)"
    )
    assert found[7]["error"] == "cannot read 0007.png: it is empty"
    assert found[2]["classes"] is found[2]["logits"] is None
    assert [[it.key for it in receipt.failures] for receipt in (first, second)] == [
        ["0002.png"],
        ["0007.png"],
    ]
    assert (first.rows, second.rows) == (6, 5)
    good = found[0]
    odds = np.exp(good["logits"]) / np.exp(good["logits"]).sum()
    best = np.argsort(-odds)[:2]
    assert [it["index"] for it in good["classes"]] == best.tolist()
    assert [it["name"] for it in good["classes"]] == [("ant", "bee", "cat")[i] for i in best]
    assert [it["probability"] for it in good["classes"]] == pytest.approx(odds[best])
    assert good["error"] is None


def test_batches_are_composed_by_the_shard_alone_with_black_pictures_in_holes(
    source: Path, tmp_path: Path
) -> None:
    receipts(pipeline_of(tmp_path / "out").run(planned(source)))
    keys = sorted(LEVELS)
    black = np.full((8, 8), -1, np.float32)

    def image(key: str) -> Any:
        if key in ("0002.png", "0007.png"):
            return black
        pixels = np.asarray(PIL.Image.open(io.BytesIO(LEVELS[key])))
        return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)

    want: dict[str, Any] = {}
    for some in (keys[0:4], keys[4:6], keys[6:10], keys[10:]):
        batch = np.stack([image(key) for key in some] + [black] * (4 - len(some)))
        logits = mixing(batch[:, np.newaxis]).astype(np.float64)
        want |= dict(zip(some, logits.tolist(), strict=False))
    found = {row["key"]: row["logits"] for row in rows(tmp_path / "out") if not row["error"]}
    assert found == {key: want[key] for key in found}  # bit for bit
    assert len(found) == 9


@pytest.mark.parametrize("format", FORMATS)
def test_parts_are_the_same_bytes_whatever_the_threads_and_the_order(
    source: Path, tmp_path: Path, format: Any
) -> None:
    request = request_of(format=format)
    shards = planned(source, request)
    outputs = []
    for number, (threads, order) in enumerate(((1, shards), (3, shards[::-1]), (2, shards))):
        output = tmp_path / f"out{number}"
        for alone in [order] if number < 2 else [[it] for it in order]:  # a worker each
            pipeline = pipeline_of(output, request=request, decode_threads=threads)
            receipts(pipeline.run(alone))
        outputs.append(parts(output))
    assert len(outputs[0]) == 2
    assert outputs[0] == outputs[1] == outputs[2]


def test_parquet_has_the_same_rows(source: Path, tmp_path: Path) -> None:
    for format in ("jsonl", "parquet"):
        request = request_of(format=format)
        receipts(pipeline_of(tmp_path / "out", request=request).run(planned(source, request)))
    stored = [
        it
        for path in (tmp_path / "out").glob("*.parquet")
        for it in pq.read_table(path).to_pylist()
    ]
    assert sorted(stored, key=lambda row: row["key"]) == rows(tmp_path / "out")


def test_labels_are_in_the_rows(tmp_path: Path) -> None:
    members = [("a.png", png(1)), ("a.cls", b"3"), ("b.png", png(2)), ("b.cls", b"cat")]
    source = tar_of(tmp_path / "a.tar", members)
    receipts(pipeline_of(tmp_path / "out").run(planned(source)))
    assert [row["label"] for row in rows(tmp_path / "out")] == [3, "cat"]


def test_baked_preprocessing_gets_pixels(tmp_path: Path) -> None:
    seen = []

    def function(images: Any) -> Any:
        seen.append(images)
        return np.zeros((len(images), 3), np.float32)

    pipeline = pipeline_of(tmp_path / "out", function, baked=True)
    pipeline._session.inputs = (
        pipeline._session.inputs[0].model_copy(update={"dtype": "uint8", "shape": (None, 8, 8, 1)}),
    )
    source = folder_of(tmp_path / "in", levels(1))
    receipts(pipeline.run(planned(source)))
    assert seen[0].dtype == np.uint8
    assert seen[0].shape == (4, 8, 8, 1)
    assert seen[0][0].max() == 40
    assert seen[0][1:].max() == 0


# ---- bad pictures

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
JPEG = saved(PIL.Image.fromarray(NOISE), "JPEG", quality=95)
FRAMES = [PIL.Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (0, 99)]
#: Files that have no single picture in them, and what their rows say.
BAD = {
    "empty.jpg": (b"", "it is empty"),
    "text.jpg": (b"this is no picture", "not an image of a format"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "cannot read the image"),
    "bomb.png": (saved(PIL.Image.new("1", (8001, 8000)), "PNG"), f"at most {MOST_PIXELS}"),
    "moving.webp": (
        saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        "several frames",
    ),
    "glass.png": (saved(PIL.Image.new("LA", (8, 8), (9, 9)), "PNG"), "see-through"),
    "oblong.png": (saved(PIL.Image.new("L", (60_000_000, 1)), "PNG"), "too oblong"),
}


def test_every_kind_of_bad_picture_is_a_row_with_its_reason(tmp_path: Path) -> None:
    cmyk = saved(PIL.Image.fromarray(NOISE).convert("CMYK"), "JPEG")
    files = {"cmyk.jpg": cmyk, "good.png": png(1)} | {key: data for key, (data, _) in BAD.items()}
    source = folder_of(tmp_path / "in", files.items())
    (source / "gone.png").symlink_to(tmp_path / "nowhere")
    pipeline = pipeline_of(tmp_path / "out", decode_threads=2)
    (receipt,) = receipts(pipeline.run(planned(source)))
    errors = {row["key"]: row["error"] for row in rows(tmp_path / "out")}
    assert errors.pop("good.png") is errors.pop("cmyk.jpg") is None
    assert "No such file" in errors.pop("gone.png")
    assert errors.keys() == BAD.keys()
    for key, (_, why) in BAD.items():
        assert why in errors[key], errors[key]
        assert str(tmp_path) not in errors[key]  # rows do not depend on the place
        assert "\n" not in errors[key]
    assert pipeline.progress.failures == len(receipt.failures) == len(BAD) + 1


def test_logits_that_are_not_finite_are_no_result(tmp_path: Path) -> None:
    def function(images: Any) -> Any:
        logits = mixing(images)
        logits[1, 0], logits[2, 1] = np.nan, np.inf
        return logits

    source = folder_of(tmp_path / "in", levels(4))
    receipts(pipeline_of(tmp_path / "out", function).run(planned(source)))
    errors = [row["error"] for row in rows(tmp_path / "out")]
    assert errors == [None, *["the network gave NaN or infinite logits"] * 2, None]


def test_a_batch_without_a_picture_does_not_run(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [(f"{n}.png", b"x") for n in range(8)])
    pipeline = pipeline_of(tmp_path / "out")
    (receipt,) = receipts(pipeline.run(planned(source)))
    assert pipeline._session.calls == 0  # type: ignore[attr-defined]
    assert receipt.rows == len(receipt.failures) == 8


# ---- what ends it


def test_a_shard_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar", "c.tar"):
        tar_of(tmp_path / "in" / name, levels(5))
    shards = planned(tmp_path / "in")
    (tmp_path / "in" / "b.tar").unlink()
    first, failed, last = pipeline_of(tmp_path / "out").run(shards)
    assert isinstance(failed, Failed)
    assert failed.shard.shard.name == "b.tar"
    assert {type(first), type(last)} == {Receipt}
    assert len(parts(tmp_path / "out")) == 2  # nothing half-written


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda images: mixing(images)[:-1], r"logits have shape \(3, 3\), want 4 x classes"),
        (lambda images: images, r"logits have shape \(4, 1, 8, 8\)"),
    ],
)
def test_a_session_with_other_outputs_is_refused_before_the_work(
    tmp_path: Path, function: Any, why: str
) -> None:
    with pytest.raises(SessionFailed, match=why):
        pipeline_of(tmp_path / "out", function).warm_up()


def test_a_session_that_fails_ends_the_run_with_its_words(source: Path, tmp_path: Path) -> None:
    def function(_: Any) -> Any:
        raise SessionFailed("out of order")

    with pytest.raises(SessionFailed, match="out of order"):
        list(pipeline_of(tmp_path / "out", function).run(planned(source)))
    assert parts(tmp_path / "out") == {}


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_one_line_that_says_what_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    request = request_of(format=format)
    shards = planned(source, request)
    pipeline = pipeline_of(tmp_path / "out", request=request)
    running = pipeline.run(shards)
    kept = next(running)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    running.close()
    monkeypatch.setattr(FORMATS[request.format], "append", full)
    with pytest.raises(
        MissingRequirement, match=r"No space left.*finished shards are kept"
    ) as caught:
        list(pipeline.run(shards[1:]))
    assert "\n" not in str(caught.value)
    assert isinstance(kept, Receipt)
    assert kept.part in parts(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_a_session_that_never_returns_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "STOP_S", 0.01)
    release = threading.Event()

    def function(images: Any) -> Any:
        release.wait()
        return mixing(images)

    pipeline = pipeline_of(tmp_path / "out", function, patience_s=0.05)
    with pytest.raises(NeverReturned, match="the session has not returned from a batch of 4"):
        list(pipeline.run(planned(source)))
    assert pipeline.hung
    release.set()


def test_a_picture_that_is_never_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "STOP_S", 0.01)
    release = threading.Event()

    def load() -> bytes:
        release.wait()
        return png(1)

    shard = Planned("0" * 64, Listed("a", [Picture("far.png", None, 1, load)]))
    with pytest.raises(NeverReturned, match=r"far\.png is still being read or decoded"):
        list(pipeline_of(tmp_path / "out", patience_s=0.05).run([shard]))
    release.set()


def test_closing_it_abandons_the_shard_in_flight_and_keeps_the_others(
    source: Path, tmp_path: Path
) -> None:
    running = pipeline_of(tmp_path / "out").run(planned(source) * 1)
    first = next(running)
    running.close()
    assert isinstance(first, Receipt)
    assert first.part in parts(tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.daemon and "Thread-" in thread.name and "_guarded" in thread.name
    ]


def test_memory_is_bounded_by_a_few_batches(tmp_path: Path) -> None:
    loaded = 0

    def load() -> bytes:
        nonlocal loaded
        loaded += 1
        return png(1)

    blocked, release = threading.Event(), threading.Event()

    def function(images: Any) -> Any:
        blocked.set()
        release.wait()
        return mixing(images)

    pictures = [Picture(f"{n}.png", None, 1, load) for n in range(200)]
    running = pipeline_of(tmp_path / "out", function, decode_threads=2).run(
        [Planned("0" * 64, Listed("a", pictures))], lambda _: None
    )
    thread = threading.Thread(target=lambda: list(running))
    thread.start()
    blocked.wait()
    before = -1
    while before != loaded:  # until the decoders wait, too
        before = loaded
        thread.join(0.05)
    assert loaded <= 4 * (1 + 3 + 1 + 2 + 3)  # running, queued, assembled, ahead and its queue
    release.set()
    thread.join()
    assert loaded == 200


def test_progress_is_told_while_it_runs(source: Path, tmp_path: Path) -> None:
    told: list[int] = []

    def look(progress: Progress) -> None:
        told.append(progress.pictures)

    pipeline = pipeline_of(tmp_path / "out")
    receipts(pipeline.run(planned(source), look, 0.0))
    assert told
    assert told == sorted(told)
    assert pipeline.progress.pictures == 11


# ---- fed by a crew


def both(running: Running, shards: list[Planned]) -> list[Receipt]:
    """Receipts of shards that a crew gives on a thread each."""
    with ThreadPoolExecutor(len(shards)) as pool:
        return list(pool.map(running, shards))


def test_the_next_shard_is_decoded_before_the_session_is_done_with_the_one_before(
    source: Path, tmp_path: Path
) -> None:
    loaded, waited = threading.Event(), []

    def load() -> bytes:
        loaded.set()
        return png(1)

    def function(images: Any) -> Any:
        waited.append(loaded.wait(10))
        return mixing(images)

    first = planned(source)[0]
    second = Planned("1" * 64, Listed("b", [Picture("b.png", None, 1, load)]))
    running = Running(pipeline_of(tmp_path / "out", function))
    assert [it.rows for it in both(running, [first, second])] == [6, 1]
    assert waited == [True] * 3


def test_a_shard_does_not_wait_for_the_next_and_has_the_bytes_of_one_run(
    source: Path, tmp_path: Path
) -> None:
    shards = planned(source)
    receipts(pipeline_of(tmp_path / "one").run(shards))
    running = Running(pipeline_of(tmp_path / "fed"))
    for shard in shards:
        assert running(shard).shard == shard.id
    assert parts(tmp_path / "fed") == parts(tmp_path / "one")


def test_a_shard_that_cannot_be_read_is_an_error_of_its_own(source: Path, tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "tars" / "a.tar", levels(2))
    gone = planned(tar)
    tar.unlink()
    running = Running(pipeline_of(tmp_path / "out"))
    with pytest.raises(BadInput, match="cannot read"):
        running(gone[0])
    assert [it.rows for it in both(running, planned(source))] == [6, 5]


def test_a_session_that_fails_is_an_error_of_every_shard(source: Path, tmp_path: Path) -> None:
    def function(_: Any) -> Any:
        raise SessionFailed("out of order")

    running = Running(pipeline_of(tmp_path / "out", function))
    for shard in planned(source):
        with pytest.raises(SessionFailed, match="out of order"):
            running(shard)


def test_time_without_a_shard_is_no_time_of_waiting_for_pictures(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0, 1000)
    monkeypatch.setattr(flow, "now_ns", lambda: next(now))
    running = Running(pipeline_of(tmp_path / "out"))
    first, second = planned(source)
    running(first)
    for _ in range(10**6):  # a second passes
        next(now)
    assert running(second).times.starved < 10**6
