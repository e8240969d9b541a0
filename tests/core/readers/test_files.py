"""The door: what is no regular file is refused at once, in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from resnext.artifact.files import read_artifact
from resnext.errors import BadArtifact, BadInput, ResnextError
from resnext.images.preprocessing import default_preprocessing
from resnext.images.sources import image_source
from resnext.network.config import variant
from resnext.readers.files import MIB, open_file, read_all, read_file
from resnext.weights.spec import load_weights
from resnext_bench.result import read_run
from resnext_export.calibration.ranges import read_ranges

GRAY = default_preprocessing(variant("resnext11_8x4d_digits"))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def empty(path: Path) -> None:
    path.touch()


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)  # sparse


def without_bytes(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


ODD = [fifo, zero, listening, folder, dangling, circle, empty, huge, without_bytes]
LONG = ["x" * 300, "y/" * 2500 + "z"]


@pytest.fixture(autouse=True)
def short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has a limit of about 100 bytes


@pytest.mark.parametrize("make", ODD)
@pytest.mark.timeout(10)
def test_what_is_no_regular_file_of_some_size_is_refused_unread(make: object) -> None:
    path = Path("odd")
    make(path)  # type: ignore[operator]
    with pytest.raises(BadArtifact, match="cannot read odd: ") as caught:
        open_file(path, MIB, BadArtifact)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*LONG, "zero\0byte"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        open_file(name, MIB)


def test_a_file_of_just_the_limit_is_read_and_no_larger_one() -> None:
    Path("file").write_bytes(b"12345")
    assert read_file("file", 5) == b"12345"
    with pytest.raises(BadInput, match="has 5 bytes, at most 4 are accepted"):
        read_file("file", 4)


def test_a_file_that_shrinks_as_it_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_bytes(b"12345")
    with open_file("file", MIB) as file:
        real = os.fstat

        def late(descriptor: int) -> os.stat_result:
            status = real(descriptor)
            os.truncate("file", 2)
            return status

        monkeypatch.setattr(os, "fstat", late)
        with pytest.raises(BadInput, match="its size changes"):
            read_all(file, "file")


@pytest.mark.parametrize("make", ODD)
@pytest.mark.timeout(20)
def test_every_file_that_a_user_names_comes_through_the_door(make: object) -> None:
    Image.new("L", (8, 8)).save("a.png")
    for at in ("artifact/manifest.json", "pictures/b.png", "w.pth", "w.safetensors", "r.json"):
        path = Path(at)
        path.parent.mkdir(exist_ok=True)
        make(path)  # type: ignore[operator]
    for read in (
        lambda: read_artifact(Path("artifact")),
        lambda: read_artifact(Path("artifact/manifest.json")),
        lambda: GRAY.load(Path("pictures/b.png")),
        lambda: image_source("pictures", GRAY, split="calibration"),
        lambda: load_weights("w.pth", "resnext11_8x4d_digits"),
        lambda: load_weights("w.safetensors", "resnext11_8x4d_digits"),
        lambda: read_run(Path("r.json")),
        lambda: read_ranges(Path("r.json")),
    ):
        with pytest.raises(ResnextError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", [*LONG, b"\xff\xfe".decode("utf-8", "surrogateescape"), "/proc"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("resnext.cli.parity", "--artifact", "{}"),
        ("resnext.cli.parity", "--artifact", "{}", "--json", "{}"),
        ("resnext.cli.classify", "{}", "--weights", "digits"),
        ("resnext.cli.classify", "{}", "--artifact", "{}"),
        ("resnext_export.cli.export", "--weights", "{}.pth", "--output", "{}"),
        ("resnext_export.cli.export", "inspect", "{}"),
        ("resnext_export.cli.export", "check-trt", "{}"),
        ("resnext_export.cli.export", "check-triton", "{}"),
        ("resnext_export.cli.export", "rebuild", "{}", "--output", "{}"),
        ("resnext_bench.cli.bench", "--artifact", "{}"),
        ("resnext_bench.cli.bench", "--backend", "torch", "--json", "{}"),
    ],
    ids=lambda arguments: arguments[0] + arguments[1],
)
def test_a_name_that_no_file_can_have_ends_a_command_in_one_line(
    arguments: tuple[str, ...], name: str
) -> None:
    from click.testing import CliRunner

    module, *rest = arguments
    __import__(module)
    main = sys.modules[module].main
    outcome = CliRunner().invoke(main, [text.format(name) for text in rest])
    assert outcome.exit_code in (2, 3, 4)
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert "unexpected" not in outcome.stderr


def test_a_name_that_is_no_utf_8_ends_a_process_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resnext.cli.parity", "--artifact", b"a\nb\xff"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 4
    said = b"error: the value of --artifact is not UTF-8: a\\nb\\udcff; rename it, or copy it\n"
    assert done.stderr == said
