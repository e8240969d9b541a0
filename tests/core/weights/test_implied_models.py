"""What a checkpoint says of itself, against what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resnext.errors import BadWeights, UsageError
from resnext.network.config import VARIANTS
from resnext.weights.checkpoint import save_weights
from resnext.weights.spec import load_weights


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("declared") / "fashion.safetensors"
    save_weights(load_weights("fashion-mnist"), path)
    return path


def test_a_declared_model_is_implied(declared: Path) -> None:
    assert load_weights(str(declared)).config == VARIANTS["resnext11_8x4d_fashion"]


def test_another_model_than_the_declared_one_is_refused_though_every_tensor_would_fit(
    declared: Path,
) -> None:
    # digits and fashion differ in their input size alone: without the check the picture would be
    # shrunk in silence.
    with pytest.raises(BadWeights, match="are of model resnext11_8x4d_fashion"):
        load_weights(str(declared), "resnext11_8x4d_digits")


def test_another_input_size_can_be_asked_for_and_the_preprocessing_follows(declared: Path) -> None:
    for spec in (str(declared), "fashion-mnist"):
        weights = load_weights(spec, input_size=(32, 32))
        assert weights.config == replace(VARIANTS["resnext11_8x4d_fashion"], input_size=(32, 32))
        assert weights.preprocessing.crop == (32, 32)
        assert weights.preprocessing.resize == 32


def test_the_number_of_classes_is_checked_against_the_implied_model() -> None:
    assert load_weights("digits", num_classes=10).config == VARIANTS["resnext11_8x4d_digits"]
    with pytest.raises(BadWeights, match=r"fc\.weight \(got \(10, 256\), want \(7, 256\)\)"):
        load_weights("digits", num_classes=7)


def test_a_shipped_model_at_another_size_keeps_its_trained_weights() -> None:
    assert load_weights(None, "resnext11_8x4d_digits", input_size=(16, 16)).source == "digits"


def test_shipped_weights_of_another_model_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="are of model resnext11_8x4d_digits"):
        load_weights("digits", "resnext50_32x4d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.complex64), "not dense floating-point"),
        (lambda t: t.to(torch.int32), "not dense floating-point"),
        (lambda t: t.to_sparse(), "not dense floating-point"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    tmp_path: Path, change: object, message: str
) -> None:
    assert callable(change)
    state = dict(load_weights("digits").state_dict)
    state["fc.weight"] = change(state["fc.weight"])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(BadWeights, match=message):
        load_weights(str(tmp_path / "odd.pth"), "resnext11_8x4d_digits")


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    state = dict(load_weights("digits").state_dict)
    state["bn1.running_var"] = -state["bn1.running_var"]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(BadWeights, match=r"negative variances: tensors bn1\.running_var"):
        load_weights(str(tmp_path / "odd.pth"), "resnext11_8x4d_digits")


@pytest.mark.parametrize(
    ("name", "change", "message", "remedy"),
    [
        ("fc.bias", lambda t: t * float("nan"), "holds NaN or infinite", "earlier checkpoint"),
        ("fc.bias", lambda t: t + float("inf"), "holds NaN or infinite", "earlier checkpoint"),
        ("bn1.running_var", lambda t: -t, "holds negative variances", "copy or save it again"),
        ("fc.weight", lambda t: t.to_sparse(), "not dense floating-point", "dense and on the CPU"),
    ],
)
def test_values_of_no_network_have_a_remedy(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor], message: str, remedy: str
) -> None:
    state = dict(load_weights("digits").state_dict)
    state[name] = change(state[name])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(BadWeights, match=message) as caught:
        load_weights(str(tmp_path / "odd.pth"))
    assert remedy in caught.value.hint


def test_the_number_of_classes_is_checked_against_the_tensors(tmp_path: Path) -> None:
    torch.save(dict(load_weights("digits").state_dict), tmp_path / "w.pth")
    with pytest.raises(BadWeights, match="has 10 classes, not 8") as caught:
        load_weights(str(tmp_path / "w.pth"), num_classes=8)
    assert caught.value.hint == "drop `num_classes`"
    assert load_weights(str(tmp_path / "w.pth"), num_classes=10).config.num_classes == 10


@pytest.mark.parametrize("spec", ["https://a.b/c.pth", "s3://a/b", "file:///c.pth"])
def test_a_url_is_not_fetched(spec: str) -> None:
    with pytest.raises(UsageError, match=f"weights '{spec}' are a URL") as caught:
        load_weights(spec)
    assert caught.value.hint.startswith("download the file")


def test_a_missing_checkpoint_is_called_by_its_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for spec, hint in (
        ("nope.pth", f"check the path, which stands for {tmp_path / 'nope.pth'}"),
        (str(tmp_path / "nope.pth"), "check the path"),
    ):
        with pytest.raises(BadWeights, match=f"no weights file at {spec}") as caught:
            load_weights(spec)
        assert caught.value.hint == hint


def test_names_from_a_compiled_model_are_understood(tmp_path: Path) -> None:
    digits = load_weights("digits")
    torch.save(
        {f"_orig_mod.{name}": value for name, value in digits.state_dict.items()},
        tmp_path / "c.pth",
    )
    assert load_weights(str(tmp_path / "c.pth"), "resnext11_8x4d_digits").sha256 == digits.sha256
