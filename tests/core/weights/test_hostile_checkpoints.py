"""Pickled checkpoints that are not what they seem."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from resnext.cli.classify import main as classify
from resnext.errors import BadWeights, ResnextError
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import load_weights

MODEL = "resnext11_8x4d_digits"
PREFIXED = ("module.", "_orig_mod.", "module._orig_mod.")


@pytest.fixture
def state() -> dict[str, Any]:
    return dict(load_weights("digits").state_dict)


def refused(path: Path) -> str:
    with pytest.raises(ResnextError) as caught:
        load_weights(str(path), MODEL)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nested(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([tensor.reshape(-1), tensor.reshape(-1)[:1]])


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to("meta"),
        nested,
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.reshape(len(tensor), -1).to_sparse_csr(),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
    ids=["meta", "nested", "sparse", "csr", "quantized"],
)
@pytest.mark.parametrize("name", ["fc.weight", "bn1.num_batches_tracked", "extra"])
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_not_plain_is_refused_and_named(
    tmp_path: Path, state: dict[str, Any], change: Callable[[Tensor], Tensor], name: str
) -> None:
    state[name] = change(state["fc.weight"])
    torch.save(state, tmp_path / "w.pth")
    message = refused(tmp_path / "w.pth")
    assert name in message or "contains more than tensors" in message


def test_one_value_is_not_repeated_into_gigabytes(tmp_path: Path, state: dict[str, Any]) -> None:
    # 16 KB would become a classifier of 24 GB: the tensors say how many classes there are.
    state = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for name, value in state.items()
    }
    state["fc.weight"] = torch.zeros(1).expand(100_000_000, 64)
    torch.save(state, tmp_path / "w")
    assert (tmp_path / "w").stat().st_size < 30_000
    with pytest.raises(BadWeights, match=r"its tensors more: fc\.weight repeats values"):
        load_weights(str(tmp_path / "w"))


def test_thousands_of_networks_in_one_dictionary_are_not_compared(tmp_path: Path) -> None:
    names = [f"{i}.layer1.0.conv1.weight" for i in range(3000)] + [f"x{i}" for i in range(3000)]
    torch.save(dict.fromkeys(names, torch.zeros(1)), tmp_path / "w")
    with pytest.raises(BadWeights, match="holds 3000 networks"):
        load_weights(str(tmp_path / "w"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", PREFIXED)
def test_names_that_fall_together_without_their_prefix_are_refused(
    tmp_path: Path, state: dict[str, Any], prefix: str, suffix: str
) -> None:
    state[f"{prefix}fc.weight"] = torch.zeros_like(state["fc.weight"])
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    assert "holds fc.weight twice" in refused(path)


def test_keys_that_fall_together_as_text_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(1), "1": torch.zeros(1)}, tmp_path / "w.pth")
    assert "holds 1 twice" in refused(tmp_path / "w.pth")


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)  # a function that pickle can name


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path: Path, state: dict[str, Any], legacy: bool) -> None:
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Planted(mark)))  # the plant works
    assert mark.is_dir()
    mark.rmdir()
    torch.save(
        {**state, "x": Planted(mark)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy
    )
    assert "contains more than tensors" in refused(tmp_path / "w.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Planted(mark)))
    refused(tmp_path / "bare.pth")
    assert not mark.exists()


def rezipped(data: bytes, change: Callable[[zipfile.ZipInfo], object]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            change(entry)
            target.writestr(entry, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entry: setattr(entry, "compress_type", zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda entry: setattr(entry, "filename", f"../{entry.filename}"), "is not accepted"),
        (lambda entry: setattr(entry, "external_attr", 0o120777 << 16), "is a link"),
    ],
)
def test_the_archive_of_a_checkpoint_is_read_strictly(
    tmp_path: Path, state: dict[str, Any], change: Callable[[zipfile.ZipInfo], object], why: str
) -> None:
    torch.save(state, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(rezipped(data, lambda _: None))
    assert load_weights(str(tmp_path / "w.pth"), MODEL).config.num_classes == 10
    (tmp_path / "w.pth").write_bytes(rezipped(data, change))
    assert why in refused(tmp_path / "w.pth")


def test_a_flipped_bit_in_a_tensor_is_found_by_the_archives_checksum(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    torch.save(state, tmp_path / "w.pth")
    data = bytearray((tmp_path / "w.pth").read_bytes())
    at = data.find(state["fc.weight"].numpy().tobytes())
    data[at + 5] ^= 1
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(BadWeights, match="does not have its checksum"):
        load_weights(str(tmp_path / "w.pth"), MODEL)


def test_names_in_a_checkpoint_are_printed_without_their_control_characters(
    tmp_path: Path,
) -> None:
    digits = load_weights("digits").state_dict
    path = tmp_path / "a\n\x1b[31mb.pth"
    torch.save({f"\x1b[31m\n.{name}": value for name, value in digits.items()}, path)
    picture = SHIPPED["digits"].images / "3_3.png"
    words = [str(picture), "--weights", str(path), "--input-size", "8x8"]
    words += ["--weights-key", "a\nb"]  # chooses nothing, which a note says
    done = CliRunner().invoke(classify, words)
    assert done.exit_code == 0, done.stderr
    assert "took the prefix" in done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith(("note: ", "warning: ")) and line.isprintable() for line in lines)


@pytest.mark.parametrize("name", ["12:30", "a\nb", "\x1b[31m", "a\\b", "caf\u00e9", " "])
def test_a_checkpoint_may_be_saved_under_any_name(name: str, tmp_path: Path) -> None:
    """torch.save calls the folder in the archive as the file is called."""
    network = load_weights("digits")
    torch.save(dict(network.state_dict), tmp_path / f"{name}.pth")
    saved = load_weights(str(tmp_path / f"{name}.pth"), input_size=(8, 8))
    assert saved.sha256 == network.sha256
