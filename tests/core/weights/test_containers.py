"""Checkpoint files are read by their bytes, whatever their names end in."""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from resnext.errors import BadWeights
from resnext.network.config import ResNeXtConfig
from resnext.weights.checkpoint import save_weights
from resnext.weights.pickles import ALLOWED, NumberType, number, read_pickle
from resnext.weights.spec import Weights, load_weights

TINY = ResNeXtConfig((1, 1), 2, 4, (8, 8), 3, 5, stem="small", stem_channels=8)


@pytest.fixture(scope="module")
def tiny() -> Weights:
    return load_weights("seeded", TINY)


def write(path: Path, state: dict[str, Tensor], container: str) -> None:
    if container == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w.bin", "w.safetensors", "w.txt", "w"])
def test_no_ending_is_believed(tmp_path: Path, tiny: Weights, container: str, name: str) -> None:
    write(tmp_path / name, dict(tiny.state_dict), container)
    weights = load_weights(str(tmp_path / name))
    assert weights.sha256 == tiny.sha256
    assert weights.file_sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert weights.preprocessing_source == "assumed"


def test_a_file_of_this_toolkit_declares_its_preprocessing(tmp_path: Path, tiny: Weights) -> None:
    save_weights(tiny, tmp_path / "w")
    weights = load_weights(str(tmp_path / "w"))
    assert weights.config == TINY
    assert weights.preprocessing_source == "declared"
    assert weights.notes == ()


def test_a_link_is_followed_and_its_name_does_not_matter(tmp_path: Path, tiny: Weights) -> None:
    (tmp_path / "blobs").mkdir()
    save_file(dict(tiny.state_dict), tmp_path / "blobs" / "0f3a")
    (tmp_path / "model.bin").symlink_to(Path("blobs/0f3a"))
    assert load_weights(str(tmp_path / "model.bin")).sha256 == tiny.sha256


# ---- shards


def sharded(folder: Path, state: dict[str, Tensor], container: str) -> Path:
    """Two shards and an index, each a link into a folder of blobs, as a hub's cache has them."""
    ending = {"safetensors": "safetensors", "zip": "bin"}[container]
    stem = {"safetensors": "model", "zip": "pytorch_model"}[container]
    (folder / "blobs").mkdir()
    names = sorted(state)
    index: dict[str, str] = {}
    for at, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"{stem}-0000{at}-of-00002.{ending}"
        write(folder / "blobs" / str(at), {name: state[name] for name in part}, container)
        (folder / shard).symlink_to(folder / "blobs" / str(at))
        index |= dict.fromkeys(part, shard)
    path = folder / f"{stem}.{ending}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}, indent=2))
    return path


@pytest.mark.parametrize("container", ["safetensors", "zip"])
def test_shards_are_read_by_their_index(tmp_path: Path, tiny: Weights, container: str) -> None:
    path = sharded(tmp_path, dict(tiny.state_dict), container)
    weights = load_weights(str(path))
    assert weights.sha256 == tiny.sha256
    parts = [path, *sorted(part for part in tmp_path.iterdir() if "-of-" in part.name)]
    text = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in parts)
    assert weights.file_sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("container", ["safetensors", "zip"])
def test_one_shard_is_not_the_checkpoint(tmp_path: Path, tiny: Weights, container: str) -> None:
    index = sharded(tmp_path, dict(tiny.state_dict), container)
    shard = next(tmp_path.glob("*-00001-of-00002.*"))
    with pytest.raises(BadWeights, match="is one shard of 2") as caught:
        load_weights(str(shard))
    assert caught.value.hint == f"name {index}, their index"


def lose_a_shard(folder: Path, _: dict[str, Any]) -> str:
    (folder / "model-00002-of-00002.safetensors").unlink()
    return "No such file"


def swap_two_names(_: Path, index: dict[str, Any]) -> str:
    index["fc.weight"], index["fc.bias"] = index["fc.bias"], index["fc.weight"]
    return "does not have the tensors"


def climb(_: Path, index: dict[str, Any]) -> str:
    index["fc.bias"] = "../other.safetensors"
    return "not files beside it"


def no_name(_: Path, index: dict[str, Any]) -> str:
    index["fc.bias"] = 3
    return "not files beside it"


def no_shards(_: Path, index: dict[str, Any]) -> str:
    index.clear()
    return "names 0 shards"


def a_shard_that_is_text(folder: Path, _: dict[str, Any]) -> str:
    (folder / "blobs" / "2").write_text("hello")
    return "a shard of model"


def itself(_: Path, index: dict[str, Any]) -> str:
    index.update(dict.fromkeys(index, "model.safetensors.index.json"))
    return "a shard of model"


@pytest.mark.parametrize(
    "fault",
    [lose_a_shard, swap_two_names, climb, no_name, no_shards, a_shard_that_is_text, itself],
)
def test_shards_that_do_not_fit_their_index_are_refused(
    tmp_path: Path, tiny: Weights, fault: Callable[[Path, dict[str, Any]], str]
) -> None:
    path = sharded(tmp_path, dict(tiny.state_dict), "safetensors")
    index = json.loads(path.read_text())
    message = fault(tmp_path, index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(BadWeights, match=message):
        load_weights(str(path))


# ---- what may be in a pickle


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("version", [b"cnumpy.core.", b"cnumpy._core."])
def test_the_command_line_and_numbers_of_numpy_may_be_beside_the_tensors(
    tmp_path: Path, tiny: Weights, legacy: bool, version: bytes
) -> None:
    values = {
        "args": argparse.Namespace(lr=0.1, mean=[0.5], opt="sgd"),
        "metric": np.float64(71.5),
        "best": np.float32(-2),
        "half": np.float16(0.5),
        "step": np.int64(1 << 40),
        "flag": np.bool_(True),
    }
    state = dict(tiny.state_dict)
    torch.save(
        {"state_dict": state, **values},
        tmp_path / "w",
        _use_new_zipfile_serialization=not legacy,
        pickle_protocol=2,
    )
    assert load_weights(str(tmp_path / "w")).sha256 == tiny.sha256
    data = (tmp_path / "w").read_bytes()
    if legacy:  # NumPy 1 writes its module without the underscore
        (tmp_path / "w").write_bytes(data.replace(b"cnumpy._core.", version))
        assert load_weights(str(tmp_path / "w")).sha256 == tiny.sha256
    with (tmp_path / "w").open("rb") as file:
        loaded = read_pickle(file, "w")
    assert {name: loaded[name] for name in values} == values
    assert {type(loaded[name]) for name in ("metric", "step", "flag")} == {float, int, bool}


class Own:
    """A class of some training script."""


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Own(), "Own"),
        (pathlib.PurePosixPath("x"), "PurePosixPath"),
        (np.zeros(3), "_reconstruct"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (argparse.ArgumentParser, "argparse.ArgumentParser"),
        (eval, "eval"),
        (np.datetime64("2026-01-01"), "is no number"),
        (np.str_("text"), "is no number"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_anything_else_is_refused_by_its_name(
    tmp_path: Path, tiny: Weights, value: object, name: str, legacy: bool
) -> None:
    torch.save(
        {"state_dict": dict(tiny.state_dict), "x": value},
        tmp_path / "w",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(BadWeights) as caught:
        load_weights(str(tmp_path / "w"))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_is_not_from_torch_is_refused_by_name_too(
    tmp_path: Path, protocol: int
) -> None:
    (tmp_path / "w").write_bytes(pickle.dumps(torch.nn.Linear(1, 1), protocol))
    with pytest.raises(BadWeights, match=r"it needs torch\.nn\.modules\.linear\.Linear"):
        load_weights(str(tmp_path / "w"))


def test_only_these_names_are_allowed() -> None:
    assert [name for _, name in ALLOWED] == [
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    ]
    left = torch.serialization.get_safe_globals()  # they are allowed for one file at a time
    assert not {function for function, _ in ALLOWED} & set(left)


@pytest.mark.parametrize("name", ["O", "V9", "U3", "m8", ">f8", "f16", 8, "f8,f8", "i1\n"])
def test_a_number_has_the_type_of_a_number(name: object) -> None:
    with pytest.raises(ValueError, match="is no number"):
        NumberType(name)


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789", bytes(16)])
def test_a_number_has_the_bytes_of_its_type(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # NumPy's, or ours
        number(NumberType("f8"), data)


# ---- names of files


def test_a_path_that_is_not_there_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="no weights file at"):
        load_weights(str(tmp_path / "missing.ckpt"))
