"""--json and --markdown: whole or not at all, and never over something that is not an old
report.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from resnext.errors import MissingRequirement, UsageError
from resnext.storage import check_writable, locked, write_text, write_whole


def test_a_report_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(str(tmp_path / "r.json"), "new")
    assert (tmp_path / "r.json").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_followed_and_the_files_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_text(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(str(tmp_path / "pipe"), "new")
    reader.join(timeout=10)
    assert got == ["new"]
    assert (tmp_path / "pipe").is_fifo()


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "r.json")
    check_writable(None)
    check_writable("-")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_an_artifact_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("manifest.json", "model.onnx"):
        (tmp_path / name).write_text("precious")
    for name in ("manifest.json", "model.onnx"):
        with pytest.raises(UsageError, match="artifact's folder"):
            check_writable(tmp_path / name)


@pytest.mark.parametrize("target", ["file/r.json", "folder"])
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MissingRequirement, match="cannot write"):
        check_writable(tmp_path / target)
    with pytest.raises(MissingRequirement, match="cannot write"):
        write_text(str(tmp_path / target), "new")


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "kept" / "r.bin"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.bin"
    texts = [bytes([number]) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=write_whole, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [True, False])
def test_a_work_folder_that_another_process_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """It looks like one that a killed process left. A lock file makes its folder; that may find it,
    and not find it a moment later.
    """
    made: list[Path] = []
    real = FileLock.acquire

    def acquire(lock: FileLock, *arguments: Any, **options: Any) -> Any:
        folder = Path(lock.lock_file).parent
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
            raise FileNotFoundError(folder) if before else FileExistsError(folder)
        return real(lock, *arguments, **options)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    write_whole(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert len(set(made)) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_lock_makes_others_wait(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "new" / ".lock"):
            order.append("second")

    other = threading.Thread(target=second)
    with locked(tmp_path / "new" / ".lock"):
        other.start()
        other.join(timeout=0.2)
        order.append("first")
    other.join(timeout=10)
    assert order == ["first", "second"]


def test_a_lock_that_cannot_be_made_says_how_to_choose_another_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(MissingRequirement, match=r"cannot use .*file: .*RESNEXT_CACHE_DIR"),
        locked(tmp_path / "file" / ".lock"),
    ):
        pass
