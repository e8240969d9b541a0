"""A file that is no checkpoint is called what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import Metadata

from resnext.errors import BadWeights
from resnext.weights.file_kinds import BY_BYTES, BY_ENTRIES
from resnext.weights.spec import load_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f3a\nsize 100239856\n"


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return data.getvalue()


def picture(kind: str) -> bytes:
    data = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(data, kind)
    return data.getvalue()


def graph(ir_version: int = 8, **fields: str) -> bytes:
    node = helper.make_node("Relu", ["a"], ["b"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "ab"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), **fields)
    model.ir_version = ir_version
    return bytes(model.SerializeToString())


def array() -> bytes:
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


#: A file of each row of the table, in its order.
FILES: tuple[tuple[str, bytes], ...] = (
    ("an empty file", b""),
    ("a Git LFS pointer", POINTER),
    ("a web page", b"\n <!DOCTYPE html>\n<html><title>Sign in</title></html>"),
    ("XML", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    ("a gzip archive", gzip.compress(b"w", mtime=0)),
    ("a bzip2 archive", bz2.compress(b"w")),
    ("an xz archive", lzma.compress(b"w")),
    ("a Zstandard archive", b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00w"),
    ("a 7-Zip archive", b"7z\xbc\xaf\x27\x1c\x00\x04"),
    ("a RAR archive", b"Rar!\x1a\x07\x01\x00"),
    ("a tar archive", tar()),
    ("HDF5", b"\x89HDF\r\n\x1a\n" + bytes(40)),
    ("a NumPy array", array()),
    ("GGUF", b"GGUF\3\0\0\0" + bytes(40)),
    ("a TensorFlow Lite model", b"\x1c\0\0\0TFL3" + bytes(40)),
    ("a SavedModel", b"\x08\x01\x12\x80\x01" + bytes(40)),
    ("an ONNX model", graph(producer_name="pytorch")),
    ("an engine of TensorRT", b"ftrt" + bytes(40)),
    ("a shared library", b"\x7fELF\2\1\1" + bytes(40)),
    ("a JPEG picture", picture("JPEG")),
    ("a PNG picture", picture("PNG")),
    ("a GIF picture", picture("GIF")),
    ("a WebP picture", picture("WEBP")),
    ("a TIFF picture", picture("TIFF")),
    ("a PDF document", b"%PDF-1.7\n%\xe2\xe3"),
    ("full of zeros", bytes(9000)),
)
OTHERS: tuple[tuple[str, bytes], ...] = (
    ("a web page", b"<!-- saved from url -->\n<HTML lang=en>"),
    ("an ONNX model", graph()),
    ("an ONNX model", graph(10, domain="x")),
    ("JSON", json.dumps({"architectures": ["ResNetForImageClassification"]}, indent=2).encode()),
    ("JSON", b"[1, 2]"),
    ("JSON", b'{"model":{"a": 1}}'),
    ("text", b"epoch,loss\n1,0.5\n"),
    ("text", "Zugriff verweigert: prüfen".encode()),
    ("text", ("ü" * 2048 + "ü").encode()[1:][1:] + b"x"),
    ("a TIFF picture", b"MM\0*" + bytes(40)),
)


def refused(path: Path) -> BadWeights:
    with pytest.raises(BadWeights) as caught:
        load_weights(str(path))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ""])
@pytest.mark.parametrize(("name", "data"), [*FILES, *OTHERS])
def test_a_file_is_called_what_it_is(tmp_path: Path, name: str, data: bytes, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    path.write_bytes(data)
    assert f"{path} is not a checkpoint: it is {name}" in refused(path).message


def test_each_row_of_the_table_has_its_file() -> None:
    assert len(FILES) == len(BY_BYTES)
    for kind, (name, _) in zip(BY_BYTES, FILES, strict=True):
        assert kind.name.startswith(name)


def test_bytes_of_no_known_kind_are_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(range(1, 255)))
    assert "begins neither as safetensors" in str(refused(tmp_path / "w"))


# ---- archives


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def exported(path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),))
    torch.export.save(program, path)


def entries(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(2), b=np.zeros(2))


ARCHIVES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("a package of AOTInductor", entries("w/archive_format", "w/data/aotinductor/model/x.so")),
    ("an exported program", exported),
    ("a TorchScript archive", torchscript),
    ("an archive of NumPy arrays", arrays),
    ("a Keras model", entries("config.json", "model.weights.h5")),
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "write"), ARCHIVES)
def test_an_archive_is_called_what_it_is(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "w.pt")
    assert f"it is {name}" in refused(tmp_path / "w.pt").message


def test_each_row_of_the_table_of_archives_has_its_archive() -> None:
    assert len(ARCHIVES) == len(BY_ENTRIES)
    for kind, (name, _) in zip(BY_ENTRIES, ARCHIVES, strict=True):
        assert kind.name.startswith(name)


def test_other_archives_are_said_to_be_others(tmp_path: Path) -> None:
    entries("readme.txt", "w.pth")(tmp_path / "w")
    assert "a ZIP archive of other files" in refused(tmp_path / "w").message
    torch.save({"a": torch.zeros(1)}, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(whole[: len(whole) // 2])
    assert "a ZIP archive that is cut short" in refused(tmp_path / "w").message
    (tmp_path / "w").write_bytes(whole + whole)
    error = refused(tmp_path / "w")
    assert "one part of a distributed checkpoint" in error.message
    assert "dcp_to_torch_save" in error.hint


# ---- other places


def test_a_folder_names_the_file_in_it(tmp_path: Path) -> None:
    assert refused(tmp_path).hint == "name a checkpoint in it"
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert refused(tmp_path).hint == f"name {tmp_path / 'model.safetensors'}"
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({})))
    assert "distributed checkpoint" in refused(tmp_path).message
    error = refused(tmp_path / ".metadata")
    assert "needs torch.distributed.checkpoint.metadata.Metadata" in error.message
    assert "dcp_to_torch_save" in error.hint


@pytest.mark.timeout(20)
def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = threading.Thread(target=lambda: refused_in(tmp_path), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()


def refused_in(folder: Path) -> None:
    for path in (folder / "pipe", Path("/dev/zero")):
        with pytest.raises(BadWeights, match="pipe, socket or device"):
            load_weights(str(path))


def test_a_download_that_was_cut_is_said_to_be_cut(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1000)}, tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-1])
    assert "cut short" in refused(tmp_path / "w").hint


def test_onnx_is_told_from_text_of_protobuf() -> None:
    assert onnx.load_from_string(graph()).ir_version == 8
