"""Files travel by digest, and are checked where they arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext.cluster import parcels
from resnext.cluster.parcels import Parcel
from resnext.cluster.worker import make
from resnext.errors import BadArtifact, BadInput, MissingRequirement


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "int8"
    (made / "inner").mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    (made / "inner" / "model.onnx").write_bytes(b"model")
    return made


@pytest.mark.usefixtures("cache")
def test_a_folder_arrives_as_it_was_sent_and_once(folder: Path) -> None:
    parcel = Parcel.of(folder)
    arrived = parcel.arrive(parcel.contents())
    assert arrived.name == "int8"
    assert (arrived / "inner" / "model.onnx").read_bytes() == b"model"
    before = (arrived / "manifest.json").stat().st_ino
    assert parcel.arrive(parcel.contents()) == arrived
    assert (arrived / "manifest.json").stat().st_ino == before


@pytest.mark.usefixtures("cache")
def test_a_file_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    parcel = Parcel.of(tmp_path / "model.onnx")
    assert parcel.size == 1
    assert parcel.arrive(parcel.contents()).read_bytes() == b"x"


@pytest.mark.usefixtures("cache")
def test_what_was_damaged_in_the_cache_is_written_again(folder: Path) -> None:
    parcel = Parcel.of(folder)
    arrived = parcel.arrive(parcel.contents())
    (arrived / "inner" / "model.onnx").write_bytes(b"mOdel")
    assert parcel.arrive(parcel.contents()) == arrived
    assert (arrived / "inner" / "model.onnx").read_bytes() == b"model"


@pytest.mark.parametrize("name", ["inner/model.onnx", "inner/other.onnx"])
def test_other_bytes_or_names_are_refused(folder: Path, cache: Path, name: str) -> None:
    parcel = Parcel.of(folder)
    contents = {"manifest.json": b"{}", name: b"model" if "other" in name else b"mOdel"}
    with pytest.raises(BadArtifact, match="has changed"):
        parcel.arrive(contents)
    assert not (cache / "parcels" / parcel.digest).exists()


@pytest.mark.parametrize("name", ["../out", "/tmp/out"])
@pytest.mark.usefixtures("cache")
def test_a_file_outside_of_the_parcel_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(BadArtifact, match="outside of it"):
        Parcel.of(folder).arrive({name: b"x"})


@pytest.mark.usefixtures("cache")
def test_what_is_too_large_is_read_where_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "MOST_SENT", 6)
    parcel = Parcel.of(folder)
    assert parcel.contents() is None
    assert parcel.arrive(None) == folder
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(BadArtifact, match="has changed"):
        parcel.arrive(None)
    elsewhere = Parcel("/not/here", parcel.digest, parcel.size)
    with pytest.raises(BadInput, match="cannot read /not/here on this machine"):
        elsewhere.arrive(None)


def test_a_cache_that_cannot_be_written_is_one_line(folder: Path, cache: Path) -> None:
    parcel = Parcel.of(folder)
    (cache / "parcels").mkdir(parents=True)
    (cache / "parcels" / parcel.digest).write_text("in the way")
    contents = parcel.contents()
    assert parcel.arrive(contents).is_dir()  # a file in the way is removed
    cache.rename(cache.with_name("moved"))
    cache.write_text("no folder")
    with pytest.raises(MissingRequirement, match="cannot use the cache folder"):
        parcel.arrive(contents)


def test_folders_of_photos_are_no_parcels(tmp_path: Path) -> None:
    for number in range(101):
        (tmp_path / str(number)).touch()
    with pytest.raises(BadInput, match="101 files"):
        Parcel.of(tmp_path)


def test_a_factory_gets_paths_for_parcels(folder: Path) -> None:
    assert make("builtins:str", (Parcel.of(folder),)) == str(folder)  # type: ignore[comparison-overlap]
