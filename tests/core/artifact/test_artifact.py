from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resnext.artifact import files
from resnext.artifact.files import (
    Artifact,
    check_destination,
    read_artifact,
    seal,
    staging,
)
from resnext.artifact.manifest import BatchRange, Manifest, WeightsRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, MissingRequirement, UsageError
from resnext.images.preprocessing import default_preprocessing
from resnext.network.config import variant
from resnext.readers.files import file_sha256

PAYLOAD = b"the bytes that a runtime loads" * 100

#: What a .pt2 package says of itself, as JSON.
PACKAGE: dict[str, Any] = {
    "torch": "2.13.0",
    "cuda": None,
    "device": "cpu",
    "platform": "linux-x86_64",
    "cpu_capability": "AVX2",
    "cpu_flags": ["avx2"],
    "precision": "fp32",
    "batch": {"min": 1, "opt": 8, "max": None},
    "frozen": True,
    "inputs": [{"name": "input", "dtype": "float32", "shape": [None, 1, 8, 8]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 10]}],
    "layers": [{"module": "fc", "op": "Gemm", "dtype": "float32"}],
    "kernels": {"mm": 1},
}


def manifest_of(file: Path) -> Manifest:
    config = variant("resnext11_8x4d_digits")
    return Manifest(
        kind="onnx",
        file=file.name,
        file_sha256=file_sha256(file),
        file_size_bytes=file.stat().st_size,
        model="resnext11_8x4d_digits",
        config=config,
        weights=WeightsRecord(source="digits", sha256="0" * 64),
        precision="fp32",
        inputs=(TensorSpec(name="input", dtype="float32", shape=(None, 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(None, 10)),),
        batch=BatchRange(min=1, opt=8, max=None),
        preprocessing=default_preprocessing(config),
        opset=20,
        versions={"resnext-toolkit": "0"},
        created="2020-01-01T00:00:00+00:00",
    )


def write(directory: Path, payload: bytes = PAYLOAD, *, force: bool = False) -> None:
    with staging(directory, force=force) as folder:
        (folder / "model.onnx").write_bytes(payload)
        seal(folder, manifest_of(folder / "model.onnx"))


def held(folder: Path) -> list[str]:
    """Everything below ``folder``, hidden entries included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    write(tmp_path / "out")
    return read_artifact(tmp_path / "out")


WHOLE = ["out", "out/manifest.json", "out/model.onnx"]


# ---- writing


def test_an_artifact_appears_whole_with_nothing_beside_it(
    artifact: Artifact, tmp_path: Path
) -> None:
    assert held(tmp_path) == WHOLE
    assert artifact.path.read_bytes() == PAYLOAD


def test_nothing_is_there_before_the_block_ends(tmp_path: Path) -> None:
    with staging(tmp_path / "out") as folder:
        (folder / "model.onnx").write_bytes(PAYLOAD)
        seal(folder, manifest_of(folder / "model.onnx"))
        assert not (tmp_path / "out").exists()
        assert (
            folder.parent.parent == tmp_path
        )  # the same file system, so that the rename is atomic


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    read_artifact(tmp_path / "a" / "b" / "out")


def test_an_empty_folder_is_taken_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert held(tmp_path) == WHOLE


def test_a_relative_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("out"))
    assert held(tmp_path) == WHOLE


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), BadArtifact("no")]
)
def test_an_error_or_interruption_inside_leaves_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, staging(tmp_path / "out") as folder:  # noqa: PT012  # both must be inside
        (folder / "model.onnx").write_bytes(PAYLOAD)
        raise error
    assert caught.value is error
    assert held(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_while_replacing_leaves_the_old_artifact(
    artifact: Artifact, tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), staging(artifact.directory, force=True) as folder:  # noqa: PT012  # as above
        (folder / "model.onnx").write_bytes(b"new")
        raise error
    assert held(tmp_path) == WHOLE
    assert read_artifact(artifact.directory).path.read_bytes() == PAYLOAD


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_in_the_last_rename_leaves_the_old_artifact(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    rename = Path.rename

    # On a file system that cannot swap two folders in one step.
    monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def fails(self: Path, target: Path) -> Path:
        if target == artifact.directory and not self.name.endswith(".old"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises((MissingRequirement, KeyboardInterrupt)):
        write(artifact.directory, b"new", force=True)
    assert held(tmp_path) == WHOLE
    assert read_artifact(artifact.directory).path.read_bytes() == PAYLOAD


def test_force_replaces_an_artifact(artifact: Artifact, tmp_path: Path) -> None:
    write(artifact.directory, b"new", force=True)
    assert held(tmp_path) == WHOLE
    assert read_artifact(artifact.directory).path.read_bytes() == b"new"


def test_an_artifact_is_not_replaced_without_force(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="`force`"):
        write(artifact.directory, b"new")
    assert read_artifact(artifact.directory).path.read_bytes() == PAYLOAD


def test_an_artifact_that_somebody_else_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another process"), staging(tmp_path / "out") as folder:  # noqa: PT012  # as above
        (folder / "model.onnx").write_bytes(b"late")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model.onnx").write_bytes(b"early")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"early"
    assert held(tmp_path) == ["out", "out/model.onnx"]


@pytest.mark.parametrize("foreign", ["thesis.txt", ".git/config", "folder/x"])
def test_a_folder_with_foreign_files_is_never_replaced(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    before = held(tmp_path)
    for force in (False, True):
        with pytest.raises(UsageError, match="choose another `output`"):
            write(tmp_path / "out", force=force)
    assert held(tmp_path) == before
    assert path.read_text() == "precious"


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "sub/x"])
def test_an_artifact_with_a_foreign_file_beside_it_is_never_replaced(
    artifact: Artifact, foreign: str
) -> None:
    path = artifact.directory / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        write(artifact.directory, force=True)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": '{"name": "an extension of a browser", "version": "1.0"}'},
        {"manifest.json": '{"file": "page.html"}', "page.html": "<p>precious"},
    ],
)
def test_a_manifest_of_something_else_does_not_make_a_folder_an_artifact(
    tmp_path: Path, files: dict[str, str]
) -> None:
    (tmp_path / "out").mkdir()
    for name, text in files.items():
        (tmp_path / "out" / name).write_text(text)
    with pytest.raises(UsageError, match="holds other files"):
        write(tmp_path / "out", force=True)
    for name, text in files.items():
        assert (tmp_path / "out" / name).read_text() == text


def test_a_file_or_a_link_in_the_way_is_refused(tmp_path: Path, artifact: Artifact) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(artifact.directory)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        with pytest.raises(UsageError, match="is not a folder"):
            write(tmp_path / name, force=True)
    assert (tmp_path / "file").read_text() == "precious"


#: Stops in the midst of replacing an artifact, and says so: before the block of `staging` ends,
#: with both folders swapped, or between the two renames of a file system that cannot swap.
STOPS = """
import sys, time
from pathlib import Path
from resnext.artifact import files

def stop(*_):
    print("stopped", flush=True)
    time.sleep(100)

where, directory = sys.argv[1], Path(sys.argv[2])
if where == "between":
    files._exchange = lambda *_: False
    rename = Path.rename
    Path.rename = lambda self, to: stop() if self.name == files._NEW else rename(self, to)
elif where == "swapped":
    files._fsync = lambda path: path == directory.parent and stop()
with files.staging(directory, force=True) as folder:
    (folder / "model.onnx").write_bytes(b"new")
    (folder / "manifest.json").write_text(
        '{"format_version": 1, "file": "model.onnx", "file_sha256": ""}'
    )
    if where == "within":
        stop()
"""


@contextmanager
def stopped(where: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the midst of replacing the artifact in ``directory``."""
    command = [sys.executable, "-c", STOPS, where, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with stopped("within", tmp_path / "out"):
        assert len(held(tmp_path)) > 2
    write(tmp_path / "out")
    assert held(tmp_path) == WHOLE


def test_a_process_that_is_killed_after_the_swap_leaves_the_new_artifact(
    artifact: Artifact, tmp_path: Path
) -> None:
    with stopped("swapped", artifact.directory):
        pass
    assert (artifact.directory / "model.onnx").read_bytes() == b"new"
    write(tmp_path / "out", b"newer", force=True)
    assert held(tmp_path) == WHOLE


@pytest.mark.parametrize("then", ["read", "checked", "replaced"])
def test_an_old_artifact_whose_replacement_was_killed_between_two_renames_is_put_back(
    then: str, artifact: Artifact, tmp_path: Path
) -> None:
    with stopped("between", artifact.directory):
        assert not artifact.directory.exists()
        with pytest.raises(BadArtifact, match="no artifact"):
            read_artifact(artifact.directory)  # the process lives and will finish
    if then == "replaced":
        with pytest.raises(UsageError, match="`force`"):
            write(artifact.directory, b"new")
    elif then == "checked":
        check_destination(artifact.directory, force=True)
    assert read_artifact(artifact.directory).path.read_bytes() == PAYLOAD
    write(artifact.directory, b"new", force=True)
    assert held(tmp_path) == WHOLE


def test_what_a_live_process_is_writing_stays_whatever_its_process_id(tmp_path: Path) -> None:
    """Its lock says that it lives: in another container or host it has another process id."""
    with stopped("within", tmp_path / "out"):
        before = held(tmp_path)
        write(tmp_path / "out")
        assert held(tmp_path) == sorted([*before, *WHOLE])


def test_partials_of_other_artifacts_stay(tmp_path: Path) -> None:
    with stopped("within", tmp_path / "out2"):
        pass
    before = held(tmp_path)
    write(tmp_path / "out")
    assert held(tmp_path) == sorted([*before, *WHOLE])


def test_a_folder_without_a_lock_is_not_ours_to_remove(tmp_path: Path) -> None:
    other = tmp_path / ".out.partial-1"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    write(tmp_path / "out")
    assert (other / "thesis.txt").read_text() == "precious"


def test_an_artifact_that_is_replaced_is_there_at_every_moment(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("the old artifact was moved away before the new one was in place")

    if not files._exchange(artifact.directory, artifact.directory):
        pytest.skip("this file system cannot swap two folders in one step")
    monkeypatch.setattr(Path, "rename", fails)
    write(artifact.directory, b"new", force=True)
    assert read_artifact(artifact.directory).path.read_bytes() == b"new"


def test_the_check_before_the_work_leaves_nothing(tmp_path: Path) -> None:
    check_destination(tmp_path / "out", force=False)
    assert held(tmp_path) == []


@pytest.mark.parametrize("call", [write, lambda path: check_destination(path, force=False)])
def test_a_path_below_a_file_is_a_missing_requirement(
    tmp_path: Path, call: Callable[[Path], None]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingRequirement, match="choose another `output`") as caught:
        call(tmp_path / "file" / "out")
    assert caught.value.exit_code == 3


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from resnext.artifact.files import staging
from resnext.errors import ResnextError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with staging(Path(sys.argv[1]), force=True) as folder:
        (folder / "model.onnx").write_bytes(bytes(1 << 20))
except ResnextError as exc:
    print(f"{type(exc).__name__}: {exc}")
    sys.exit(exc.exit_code)
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_full_disk_is_a_missing_requirement_and_leaves_what_was_there(
    tmp_path: Path, replacing: bool
) -> None:
    if replacing:
        write(tmp_path / "out")
    before = held(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 3
    assert done.stdout.startswith("MissingRequirement: the disk has no room for")
    assert held(tmp_path) == before


# ---- reading


def test_an_artifact_is_found_by_its_folder_its_manifest_or_its_file(artifact: Artifact) -> None:
    for path in (artifact.directory, artifact.path, artifact.directory / "manifest.json"):
        assert read_artifact(path) == artifact


def test_another_file_in_the_folder_is_not_the_artifact(artifact: Artifact) -> None:
    (artifact.directory / "other.onnx").write_bytes(PAYLOAD)
    with pytest.raises(BadArtifact, match="is not the file that"):
        read_artifact(artifact.directory / "other.onnx")


def test_no_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="export one first") as caught:
        read_artifact(tmp_path / "none")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("position", [0, 1234, len(PAYLOAD) - 1])
def test_one_altered_byte_is_found(artifact: Artifact, position: int) -> None:
    raw = bytearray(PAYLOAD)
    raw[position] ^= 1
    artifact.path.write_bytes(bytes(raw))
    with pytest.raises(BadArtifact, match="sha256"):
        read_artifact(artifact.directory)


@pytest.mark.parametrize("payload", [b"", PAYLOAD[:-1], PAYLOAD + b"\0"])
def test_another_length_is_found(artifact: Artifact, payload: bytes) -> None:
    artifact.path.write_bytes(payload)
    with pytest.raises(
        BadArtifact, match=f"has {len(payload)} bytes, its manifest says {len(PAYLOAD)}"
    ):
        read_artifact(artifact.directory)


def test_a_missing_file_is_found(artifact: Artifact) -> None:
    artifact.path.unlink()
    with pytest.raises(BadArtifact, match="missing"):
        read_artifact(artifact.directory)


def test_a_link_in_place_of_the_file_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    shutil.move(artifact.path, tmp_path / "elsewhere")
    artifact.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadArtifact, match="not a plain file"):
        read_artifact(artifact.directory)


def test_a_missing_manifest_is_found(artifact: Artifact) -> None:
    (artifact.directory / "manifest.json").unlink()
    for path in (artifact.directory, artifact.path):
        with pytest.raises(BadArtifact, match=r"no manifest\.json"):
            read_artifact(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"not json", b"\xff\xfe", b"[]", b"null", b'"text"', b"7", b"[" * 100_000],
    ids=["empty", "cut", "text", "not UTF-8", "list", "null", "string", "number", "deep"],
)
def test_a_manifest_that_is_no_json_object_is_refused(artifact: Artifact, raw: bytes) -> None:
    (artifact.directory / "manifest.json").write_bytes(raw)
    with pytest.raises(BadArtifact) as caught:
        read_artifact(artifact.directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [1]])
def test_an_unknown_format_version_is_refused(artifact: Artifact, version: object) -> None:
    edit(artifact, lambda raw: raw.update(format_version=version))
    with pytest.raises(BadArtifact, match=r"format_version .* this version reads 1"):
        read_artifact(artifact.directory)


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "verdict.json", "verdict.intoto.json", "model.sig"),
        "conformance-kit.zip",
    ],
)
def test_a_file_with_the_name_of_another_is_refused(artifact: Artifact, name: str) -> None:
    # A signature or verdict would be written over it, and no signature covers its own file.
    if name != "manifest.json":
        artifact.path.rename(artifact.directory / name)
    edit(artifact, lambda raw: raw.update(file=name))
    with pytest.raises(BadArtifact, match=f"describes {name}, which is the name of another file"):
        read_artifact(artifact.directory)


def edit(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> None:
    path = artifact.directory / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "file", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "model.onnx\n", ".hidden", "é"]
)
def test_a_file_name_that_is_not_plain_is_refused(
    artifact: Artifact, tmp_path: Path, file: str
) -> None:
    (tmp_path / "x").write_bytes(PAYLOAD)
    edit(artifact, lambda raw: raw.update(file=file))
    with pytest.raises(BadArtifact, match="is not valid: file: "):
        read_artifact(artifact.directory)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw["weights"].update(extra=1), "weights.extra"),
        (lambda raw: raw["batch"].update(extra=1), "batch.extra"),
        (lambda raw: raw["config"].update(extra=1), "config.extra"),
        (lambda raw: raw["preprocessing"].update(extra=1), "preprocessing.extra"),
        (lambda raw: raw["inputs"][0].update(extra=1), "inputs.0.extra"),
        (lambda raw: raw.pop("opset"), "opset"),
        (lambda raw: raw.update(opset=None), "kind onnx needs an opset"),
        (lambda raw: raw.update(kind="pt2"), "kind pt2 needs a package"),
        (lambda raw: raw.update(package=PACKAGE), "kind onnx has no package"),
        (lambda raw: raw.update(kind="pt2", package=PACKAGE), "kind pt2 has no opset"),
        (
            lambda raw: raw.update(kind="pt2", opset=None, package={**PACKAGE, "extra": 1}),
            "package.extra",
        ),
        (
            lambda raw: raw.update(kind="pt2", opset=None, package={**PACKAGE, "device": "tpu"}),
            "package.device",
        ),
        (lambda raw: raw.update(file_sha256="0" * 63), "file_sha256"),
        (lambda raw: raw.update(file_sha256="G" * 64), "file_sha256"),
        (lambda raw: raw.update(kind="pickle"), "kind"),
        (lambda raw: raw.update(precision="fp12"), "precision"),
        (lambda raw: raw.update(inputs=[]), "inputs"),
        (lambda raw: raw.update(outputs=[]), "outputs"),
        (lambda raw: raw["batch"].update(min=9), "batch"),
        (lambda raw: raw["batch"].update(min=0), "batch.min"),
        (lambda raw: raw["config"].update(depths=[0]), "depths"),
        (lambda raw: raw["config"].update(stem="huge"), "stem"),
        (lambda raw: raw["preprocessing"].update(std=[0.0]), "preprocessing"),
        (lambda raw: raw["inputs"][0].update(dtype="float99"), "inputs.0.dtype"),
        (lambda raw: raw.update(class_names=["only one"]), "class_names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_is_not_as_its_schema_says_is_refused_and_names_the_field(
    artifact: Artifact, change: Callable[[dict[str, Any]], object], where: str
) -> None:
    edit(artifact, change)
    with pytest.raises(BadArtifact) as caught:
        read_artifact(artifact.directory)
    message = str(caught.value)
    assert "is not valid" in message
    assert where in message
    assert "\n" not in message


def test_a_manifest_reads_back_as_it_was_written(artifact: Artifact) -> None:
    assert artifact.manifest == manifest_of(artifact.path)


# ---- batch ranges


@pytest.mark.parametrize(
    ("text", "want", "shown"),
    [("8", (8, 8, 8), "8"), ("1:8", (1, 8, None), "1..any"), ("2:4:16", (2, 4, 16), "2..16")],
)
def test_a_batch_range_is_read(text: str, want: tuple[int, int, int | None], shown: str) -> None:
    batch = BatchRange.parse(text)
    assert (batch.min, batch.opt, batch.max) == want
    assert str(batch) == shown
    assert batch.static == (text == "8")


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "a", "1:", ":8", "8:1", "1:8:4", "1:2:3:4", "1.5", "²", "0:1", " 1"]
)
def test_a_batch_range_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="batch"):
        BatchRange.parse(text)


def test_a_batch_range_contains_what_it_says() -> None:
    bounded, open_ended = BatchRange.parse("2:4:16"), BatchRange.parse("2:4")
    assert [size in bounded for size in (1, 2, 16, 17)] == [False, True, True, False]
    assert [size in open_ended for size in (1, 2, 17, 10**6)] == [False, True, True, True]
