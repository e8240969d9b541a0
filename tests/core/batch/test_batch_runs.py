"""Whole runs: what is kept, what is made again, what is refused, what is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from exported import export_onnx
from fakes.shelves import folder_of, levels, tar_of
from resnext.artifact.files import Artifact
from resnext.artifact.manifest import BatchRange
from resnext.batch import receipt, run, worker
from resnext.batch.pipeline import Pipeline
from resnext.batch.plan import plan_for
from resnext.batch.receipt import Times, cannot_write
from resnext.batch.run import classify_shards
from resnext.batch.summary import bound_of
from resnext.batch.worker import shared_threads
from resnext.cli.batch import main
from resnext.errors import BadArtifact, BadInput, MissingRequirement, SessionFailed, UsageError
from resnext.images.shards import folder
from resnext.readers.files import file_sha256
from resnext.runtimes.registry import open_session
from resnext.storage import held
from resnext.weights.spec import load_weights

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped network of digits, for up to 8 images."""
    path = tmp_path_factory.mktemp("batch") / "artifact"
    batch = BatchRange(min=1, opt=4, max=8)
    return export_onnx(load_weights("digits"), path, batch=batch, check=False)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tar files of five pictures; one picture is bad."""
    for number in range(3):
        members = dict(levels(5, 5 * number)) | ({"0007.png": b"x"} if number == 1 else {})
        tar_of(tmp_path / "in" / f"{number}.tar", members.items())
    return tmp_path / "in"


def altered(artifact: Artifact) -> Artifact:
    """An artifact of another file."""
    manifest = artifact.manifest.model_copy(update={"file_sha256": "f" * 64})
    return replace(artifact, manifest=manifest)


def content(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def times(output: Path) -> dict[str, int]:
    """When each part was written."""
    return {path.name: path.stat().st_ino for path in output.glob("part-*")}


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


# ---- resume


def test_the_same_call_again_does_nothing(artifact: Artifact, tars: Path, tmp_path: Path) -> None:
    first = classify_shards(artifact, tars, tmp_path / "out", backend="ort-cpu")
    before = times(tmp_path / "out")
    again = classify_shards(artifact, tars, tmp_path / "out", backend="ort-cpu")
    assert (first.rows, first.failures, first.earlier, first.rows_now) == (15, 1, 0, 15)
    assert (again.rows, again.failures, again.earlier, again.rows_now) == (15, 1, 3, 0)
    assert again.verdict == ""
    assert first.verdict
    assert times(tmp_path / "out") == before
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [it["name"] for it in stored["shards"]] == ["0.tar", "1.tar", "2.tar"]
    assert not list((tmp_path / "out").glob(".*"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"error", b"Error", 1))
    os.utime(path, ns=(1, 1))  # file systems count time in steps


#: What happens to a shard's files, and what it does to the part and the receipt.
DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "killed before the receipt": lambda _, receipt: receipt.unlink(),
    "part cut": lambda part, _: cut(part),
    "part altered": lambda part, _: flip(part),
    "part removed": lambda part, _: part.unlink(),
    "receipt cut": lambda _, receipt: cut(receipt),
    "receipt of another shard": lambda _, receipt: shutil.copy(
        next(it for it in receipt.parent.iterdir() if it != receipt), receipt
    ),
    "receipt with another field": lambda _, receipt: receipt.write_text(
        receipt.read_text().replace("rows", "lines")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shard_that_is_not_whole_is_made_again_bit_for_bit(
    artifact: Artifact, tars: Path, tmp_path: Path, damage: str
) -> None:
    output = tmp_path / "out"
    classify_shards(artifact, tars, output, logits=True)
    before, written = content(output), times(output)
    part = sorted(output.glob("part-*"))[1]
    its = next((output / "receipts").glob(f"{part.stem.removeprefix('part-')}*.json"))
    DAMAGE[damage](part, its)
    (output / ".part-x.jsonl.partial-00000000").mkdir()
    again = classify_shards(artifact, tars, output, logits=True)
    assert again.earlier == 2
    assert content(output) == before
    assert {name for name, inode in times(output).items() if inode != written[name]} <= {part.name}
    assert not list(output.glob(".*"))


def test_going_on_reads_no_part_that_is_as_its_receipt_says_and_the_digest_of_a_copy(
    artifact: Artifact, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify_shards(artifact, tars, tmp_path / "out")
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(receipt, "file_sha256", digest)
    assert classify_shards(artifact, tars, tmp_path / "out").earlier == 3
    assert read == []
    for part in (tmp_path / "out").glob("part-*"):
        os.utime(part, ns=(1, 1))
    assert classify_shards(artifact, tars, tmp_path / "out").earlier == 3
    assert len(read) == 3


def test_a_summary_tells_of_the_threads_of_this_run(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    classify_shards(artifact, tars, tmp_path / "out", decode_threads=3)
    next((tmp_path / "out" / "receipts").iterdir()).unlink()
    assert classify_shards(artifact, tars, tmp_path / "out", decode_threads=2).decode_threads == 2


def test_tar_files_without_a_picture_are_said_to_have_none(
    artifact: Artifact, tmp_path: Path
) -> None:
    source = tar_of(tmp_path / "a.tar", [("a.txt", b"x")])
    with pytest.raises(BadInput, match="no picture in the files in"):
        classify_shards(artifact, source, tmp_path / "out")


def test_a_new_tar_is_done_and_one_that_is_gone_is_moved_away(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    classify_shards(artifact, tars, output)
    before = content(output)
    (tars / "0.tar").unlink()
    tar_of(tars / "00.tar", levels(2))
    summary = classify_shards(artifact, tars, output)
    assert (summary.earlier, summary.rows, summary.rows_now, summary.superseded) == (2, 12, 2, 2)
    gone = content(output / "superseded")
    assert before.items() >= gone.items()
    assert len(gone) == 1
    assert len(content(output)) == 3
    assert {it.part for it in summary.shards} == content(output).keys()


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"batch": 3}, "another batch: 8, and not 3"),
    ({"top": 2}, "another top: 5, and not 2"),
    ({"logits": True}, "another logits: False, and not True"),
    ({"format": "parquet"}, "another format: jsonl, and not parquet"),
    ({"backend": "ort-cpu"}, "another backend: ort, and not ort-cpu"),
]


def test_another_request_is_refused_in_the_same_output(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    classify_shards(artifact, tars, tmp_path / "out")
    before = times(tmp_path / "out")
    for changes, why in CHANGED:
        with pytest.raises(UsageError, match=why):
            classify_shards(artifact, tars, tmp_path / "out", **changes)
    assert times(tmp_path / "out") == before


def test_another_artifact_another_input_and_another_toolkit_are_refused(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    classify_shards(artifact, tars, output)
    with pytest.raises(UsageError, match="another artifact sha256"):
        classify_shards(altered(artifact), tars, output)
    shutil.copytree(tars, tmp_path / "copy")
    with pytest.raises(UsageError, match="another input"):
        classify_shards(artifact, tmp_path / "copy", output)
    path = output / "request.json"
    whole = path.read_text()
    path.write_text(whole.replace('"version": "', '"version": "9'))
    with pytest.raises(UsageError, match="another version"):
        classify_shards(artifact, tars, output)
    path.write_text(whole[:-9])
    with pytest.raises(BadInput, match=r"request\.json is damaged"):
        classify_shards(artifact, tars, output)


# ---- what is refused


def test_a_folder_with_other_files_is_not_an_output(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    folder_of(tmp_path / "out", [("thesis.txt", b"x")])
    with pytest.raises(UsageError, match="holds files that are not of a batch run"):
        classify_shards(artifact, tars, tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, MissingRequirement, "make room, and the same command goes on"),
        (errno.EROFS, MissingRequirement, "mend that, and the same command goes on"),
        (errno.EEXIST, BadInput, "choose another `output`"),
    ],
)
def test_the_hint_fits_what_is_wrong_with_the_output(
    number: int, kind: type[Exception], hint: str
) -> None:
    found = cannot_write(Path("out"), OSError(number, os.strerror(number)))
    assert isinstance(found, kind)
    assert hint in found.hint


@pytest.mark.parametrize("places", [("in", "in"), ("in", "in/out"), ("in/deep", "in")])
def test_input_and_output_are_apart(
    artifact: Artifact, tars: Path, tmp_path: Path, places: tuple[str, str]
) -> None:
    source, output = (tmp_path / place for place in places)
    shutil.copytree(tars, tars / "deep")
    with pytest.raises(UsageError, match="are in each other"):
        classify_shards(artifact, source, output)


def test_two_runs_do_not_share_an_output(artifact: Artifact, tars: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    held_by_another = (
        "import sys\nfrom filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held_by_another, tmp_path / "out" / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(MissingRequirement, match="another run is writing into"):
            classify_shards(artifact, tars, tmp_path / "out")
    assert classify_shards(artifact, tars, tmp_path / "out").rows == 15
    with held(tmp_path / "out" / ".lock") as mine:
        assert mine


def test_an_input_without_one_good_picture_is_refused_and_its_rows_say_why(
    artifact: Artifact, tmp_path: Path
) -> None:
    source = folder_of(tmp_path / "in", [("a.png", b"x"), ("b.png", b"")])
    with pytest.raises(BadInput, match="none of 2 pictures"):
        classify_shards(artifact, source, tmp_path / "out")
    assert len(content(tmp_path / "out")) == 1


def test_an_artifact_that_is_replaced_while_workers_start_is_refused(
    artifact: Artifact, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "open_artifact", lambda *_, **__: altered(artifact))
    with pytest.raises(BadArtifact, match="is another file than when this began"):
        classify_shards(artifact, tars, tmp_path / "out")


@pytest.mark.parametrize("gone", ["in", "out"])
def test_a_worker_that_does_not_see_the_files_says_so(
    artifact: Artifact, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    if gone == "in":
        monkeypatch.setattr(worker, "exists", lambda _: False)
    else:
        monkeypatch.setattr(worker, "_probed", lambda _: "of an earlier run")
    with pytest.raises(MissingRequirement, match="a worker does not see"):
        classify_shards(artifact, tars, tmp_path / "out")


def test_a_shard_that_cannot_be_read_ends_the_run_when_all_others_are_done(
    artifact: Artifact, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*arguments: Any) -> Any:
        plan = plan_for(*arguments)
        (tars / "1.tar").unlink()
        return plan

    monkeypatch.setattr(run, "plan_for", planned)
    with pytest.raises(SessionFailed, match=r"1 of 3 shards have no part, such as 1\.tar: cannot"):
        classify_shards(artifact, tars, tmp_path / "out")
    assert len(content(tmp_path / "out")) == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [it["part"] is None for it in summary["shards"]] == [False, True, False]


# ---- sizes and threads


def test_an_artifact_of_one_size_gets_full_batches(tmp_path: Path) -> None:
    weights = load_weights("digits")
    static = export_onnx(
        weights, tmp_path / "a", batch=BatchRange(min=3, opt=3, max=3), check=False
    )
    source = folder_of(tmp_path / "in", levels(5))
    summary = classify_shards(static, source, tmp_path / "out", logits=True)
    assert summary.request.batch == 3
    rows = [
        json.loads(line)
        for part in content(tmp_path / "out").values()
        for line in part.splitlines()
    ]
    with open_session(static, "ort") as session:
        for row in rows:
            image = weights.preprocessing.normalize(weights.preprocessing.load(source / row["key"]))
            want = session(np.repeat(image, 3, axis=0))[0]
            assert row["logits"] == pytest.approx(want, abs=1e-4)
    with pytest.raises(UsageError, match="takes batch 3, not 4"):
        classify_shards(static, source, tmp_path / "out2", batch=4)


@pytest.mark.parametrize(
    ("budget", "on_cpu", "asked", "want"),
    [
        (1, True, (None, None), (1, 1)),
        (2, True, (None, None), (2, 1)),
        (4, True, (None, None), (3, 1)),
        (16, True, (None, None), (12, 4)),
        (16, False, (None, None), (16, 16)),
        (16, True, (None, 2), (14, 2)),
        (16, True, (5, None), (5, 4)),
        (0, True, (None, None), (1, 1)),
    ],
)
def test_threads_are_shared_by_session_and_decoders(
    budget: int, on_cpu: bool, asked: tuple[int | None, int | None], want: tuple[int, int]
) -> None:
    threads, decode_threads = asked
    got = shared_threads(budget, on_cpu=on_cpu, threads=threads, decode_threads=decode_threads)
    assert got == want


@pytest.mark.parametrize(
    ("spent", "workers", "share", "bound"),
    [
        ({"session": 960, "starved": 40}, 1, 0.96, "session"),
        ({"session": 610, "starved": 380, "decode": 900, "read": 20}, 1, 0.61, "decode"),
        ({"session": 400, "starved": 590, "decode": 90, "read": 900}, 1, 0.4, "read"),
        ({"session": 400, "starved": 90, "blocked": 500, "decode": 9}, 1, 0.4, "write"),
        ({"session": 960, "starved": 40, "decode": 9}, 2, 0.48, "idle"),
    ],
)
def test_what_bounded_a_run_is_what_the_session_waited_for(
    spent: dict[str, int], workers: int, share: float, bound: str
) -> None:
    found, by = bound_of(Times(**spent, wall=1000), workers)
    assert found == pytest.approx(share)
    assert by == bound


# ---- the command


def test_the_command_says_what_became_of_the_pictures(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    words = (tars, "--artifact", artifact.directory, "--output", tmp_path / "out")
    done = call(*words)
    assert done.exit_code == 0, done.output
    said = done.stdout.splitlines()
    assert said[:2] == [
        f"15 rows in 3 parts in {tmp_path / 'out'}: 3 new",
        "1 pictures have no result; their rows say why",
    ]
    assert "images/s, " in said[2]
    assert "session busy" in said[2]
    again = call(*words)
    assert again.stdout.splitlines()[0].endswith(": 0 new, 3 were finished before")
    refused = call(*words, "--batch", 2)
    assert refused.exit_code == 2
    assert "choose another --output" in refused.stderr


def test_ctrl_c_keeps_finished_shards_and_ends_with_130(
    artifact: Artifact, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Pipeline.run

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, outcome in enumerate(running(*arguments)):
            if number:
                os.kill(os.getpid(), signal.SIGINT)
            yield outcome

    monkeypatch.setattr(Pipeline, "run", interrupted)
    words = (tars, "--artifact", artifact.directory, "--output", tmp_path / "out")
    done = call(*words)
    assert done.exit_code == 130
    assert "finished shards are kept, and the same command goes on with the others" in done.stderr
    assert not list((tmp_path / "out").glob(".*"))
    kept = len(list((tmp_path / "out" / "receipts").iterdir()))
    assert kept >= 2
    monkeypatch.undo()
    assert f"{kept} were finished before" in call(*words).stdout


# ---- many workers


@pytest.mark.exhaustive
def test_two_workers_write_the_bytes_of_one_and_a_killed_one_loses_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "MOST_PICTURES", 64)
    source = folder_of(tmp_path / "in", levels(1000))
    classify_shards(artifact, source, tmp_path / "one", logits=True)
    killed: list[int] = []

    def kill_the_first(_: str) -> None:
        for path in (tmp_path / "two" / "receipts").glob("*.json") if not killed else ():
            pid = int(json.loads(path.read_text())["worker"].split()[1])
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return

    monkeypatch.setattr(run, "_LINE_S", 0.0)
    summary = classify_shards(
        artifact,
        source,
        tmp_path / "two",
        logits=True,
        workers=2,
        threads=1,
        progress=kill_the_first,
    )
    assert killed
    assert summary.rows == 1000
    assert not summary.failed_shards
    assert content(tmp_path / "two") == content(tmp_path / "one")


@pytest.mark.exhaustive
def test_a_kill_between_part_and_receipt_leaves_an_output_that_goes_on(
    artifact: Artifact, tars: Path, tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom resnext.artifact.files import"
        " read_artifact\nfrom resnext.batch import flow\nfrom resnext.batch.run import"
        " classify_shards\nkept = flow.write_receipt\ncalls = []\n"
        "def write(receipt, output):\n    calls.append(0)\n    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n    kept(receipt, output)\n"
        "flow.write_receipt = write\n"
        "classify_shards(read_artifact(Path(sys.argv[1])), *map(Path, sys.argv[2:]))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [artifact.directory, tars, tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", script, *words], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(content(tmp_path / "out")) == 2
    assert classify_shards(artifact, tars, tmp_path / "out").earlier == 1
    classify_shards(artifact, tars, tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")
    assert not list((tmp_path / "out").glob(".*"))
