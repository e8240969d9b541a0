from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from resnext.errors import BadInput, BadWeights, ResnextError, UsageError
from resnext.images.datasets import FASHION_DATA, digits, fashion_mnist
from resnext.images.preprocessing import Preprocessing, default_preprocessing
from resnext.network.config import ResNeXtConfig, variant
from resnext.weights.checkpoint import METADATA_KEY, save_weights, state_dict_sha256
from resnext.weights.shipped import SHIPPED
from resnext.weights.shipped.train import RECIPES, accuracy, train
from resnext.weights.spec import Weights, load_model, load_weights

DIGITS = variant("resnext11_8x4d_digits")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped() -> Weights:
    return load_weights("digits")


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in load_weights("digits").state_dict.items()}


def refused(
    path: Path, kind: type[ResnextError] = BadWeights, model: str | None = "resnext11_8x4d_digits"
) -> str:
    """The one line with which ``path`` is refused."""
    with pytest.raises(kind) as caught:
        load_weights(str(path), model)
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


# ---- every form of SPEC


def test_no_spec_means_seeded_weights_of_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[ResNeXtConfig, int]] = []

    def fake(config: ResNeXtConfig, seed: int) -> dict[str, Tensor]:
        asked.append((config, seed))
        return {}

    monkeypatch.setattr("resnext.weights.conditioned.seeded_state_dict", fake)
    assert load_weights().source == "seeded"
    assert load_weights("seeded:7", "resnet50").source == "seeded:7"
    assert asked == [(variant("resnext50_32x4d"), 0), (variant("resnet50"), 7)]


@pytest.mark.parametrize("name", SHIPPED)
def test_no_spec_means_the_shipped_weights_of_a_shipped_model(name: str) -> None:
    assert load_weights(None, SHIPPED[name].config).source == name


def test_a_shipped_model_can_have_seeded_weights() -> None:
    weights = load_weights("seeded", "resnext11_8x4d_digits")
    assert (weights.config, weights.class_names) == (DIGITS, ())
    assert weights.preprocessing == default_preprocessing(DIGITS)


@pytest.mark.parametrize(
    "spec", ["seeded:", "seeded:-1", "seeded:x", "seeded:1.5", "seeded:²", "seeded: 1"]
)
def test_a_seed_must_be_a_whole_number(spec: str) -> None:
    with pytest.raises(UsageError, match="must be a whole number of 0 or more"):
        load_weights(spec, DIGITS)


@pytest.mark.parametrize("spec", ["", "digit", "weights.onnx", "Seeded", "model.bin"])
def test_an_unknown_form_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_weights(spec)
    for form in ("seeded[:N]", "digits", "fashion-mnist", ".safetensors", ".pth", ".pt"):
        assert form in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model", "classes"),
    [("digits", "digits", "0"), ("fashion-mnist", "fashion", "T-shirt/top")],
)
def test_a_shipped_checkpoint_implies_model_preprocessing_and_class_names(
    name: str, model: str, classes: str
) -> None:
    weights = load_weights(name)
    assert weights.config == variant(f"resnext11_8x4d_{model}")
    assert weights.source == name
    assert weights.class_names[0] == classes
    assert len(weights.class_names) == 10
    assert weights.preprocessing.crop == weights.config.input_size
    assert weights.preprocessing.color == "L"
    assert weights.preprocessing != default_preprocessing(
        weights.config
    )  # it was measured on the training images


@pytest.mark.parametrize("model", ["resnext50_32x4d", "resnext11_8x4d_fashion"])
def test_shipped_weights_are_refused_for_another_model(model: str) -> None:
    with pytest.raises(UsageError, match="'digits' are of model resnext11_8x4d_digits"):
        load_weights("digits", model)


# ---- round trips


def test_safetensors_keep_tensors_model_preprocessing_and_class_names(
    tmp_path: Path, shipped: Weights
) -> None:
    path = tmp_path / "copy.safetensors"
    save_weights(shipped, path)
    back = load_weights(str(path))
    assert back.sha256 == shipped.sha256
    assert (back.config, back.preprocessing, back.class_names) == (
        shipped.config,
        shipped.preprocessing,
        shipped.class_names,
    )
    assert back.source == str(path.resolve())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_gives_the_same_weights_however_they_are_wrapped(
    tmp_path: Path,
    state: dict[str, Tensor],
    shipped: Weights,
    zipped: bool,
    wrapper: str | None,
    prefix: str,
) -> None:
    path = tmp_path / "copy.pth"
    held: Any = {prefix + name: value for name, value in state.items()}
    if wrapper is not None:
        held = {wrapper: held, "epoch": 3}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    back = load_weights(str(path), DIGITS)
    assert back.sha256 == shipped.sha256
    assert back.class_names == ()


def test_a_safetensors_file_without_this_toolkits_header_is_read(
    tmp_path: Path, state: dict[str, Tensor], shipped: Weights
) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(state, path)
    weights = load_weights(str(path), "resnext11_8x4d_digits")
    assert weights.sha256 == shipped.sha256
    assert weights.preprocessing == default_preprocessing(DIGITS)


def test_batch_counters_may_be_missing(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "old.pth"
    torch.save(
        {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        path,
    )
    weights = load_weights(str(path), DIGITS)
    assert int(weights.state_dict["bn1.num_batches_tracked"]) == 0
    assert load_model(weights).state_dict().keys() == state.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_other_float_types_become_float32(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    path = tmp_path / "copy.safetensors"
    save_file(
        {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in state.items()
        },
        path,
    )
    weights = load_weights(str(path), DIGITS)
    assert weights.state_dict["fc.weight"].dtype == torch.float32
    assert torch.equal(weights.state_dict["fc.weight"], state["fc.weight"].to(dtype).float())


def test_the_digest_depends_on_tensors_alone(
    tmp_path: Path, state: dict[str, Tensor], shipped: Weights
) -> None:
    turned = dict(reversed(list(state.items())))
    assert list(turned) != list(state)
    torch.save(turned, tmp_path / "turned.pth")
    save_file(turned, tmp_path / "turned.safetensors", {"note": "another container"})
    found = {
        load_weights(str(tmp_path / f"turned{suffix}"), DIGITS).sha256
        for suffix in (".pth", ".safetensors")
    }
    assert found == {shipped.sha256}


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var", "fc.bias"])
def test_the_digest_changes_with_the_last_bit_of_any_value(
    tmp_path: Path, state: dict[str, Tensor], shipped: Weights, name: str
) -> None:
    value = state[name].flatten()
    value[-1] = float(np.nextafter(np.float32(value[-1]), np.float32(9)))
    state[name] = value.reshape(state[name].shape)
    torch.save(state, tmp_path / "moved.pth")
    assert load_weights(str(tmp_path / "moved.pth"), DIGITS).sha256 != shipped.sha256


def test_the_digest_is_of_names_dtypes_shapes_and_bytes_in_the_order_of_the_names() -> None:
    a, b = torch.arange(6.0), torch.ones(2)
    digest = state_dict_sha256({"a": a, "b": b})
    assert state_dict_sha256({"b": b, "a": a}) == digest
    others = [
        {"a": a, "c": b},
        {"a": a.reshape(2, 3), "b": b},
        {"a": a.view(torch.int32), "b": b},
        {"a": a.flip(0), "b": b},
        {"a": a},
    ]
    assert digest not in [state_dict_sha256(other) for other in others]
    assert (
        state_dict_sha256({"a": torch.stack([a, a], 1)[:, 0], "b": b}) == digest
    )  # strided in memory


def test_a_model_owns_its_copy_of_the_weights(shipped: Weights) -> None:
    model = load_model(shipped)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.fc.weight.zero_()
    assert bool(load_model(shipped).fc.weight.any())


# ---- what is refused


def test_missing_unexpected_and_misshapen_tensors_are_named(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    del state["layer1.0.bn2.weight"]
    state["head.weight"] = torch.zeros(1)
    state["fc.weight"] = torch.zeros(7, 256)
    path = tmp_path / "off.pth"
    torch.save(state, path)
    message = refused(path)
    assert "does not fit resnext11_8x4d_digits" in message
    assert "missing layer1.0.bn2.weight" in message
    assert "unexpected head.weight" in message
    assert "misshapen fc.weight (got (7, 256), want (10, 256))" in message


def test_only_the_first_few_of_many_tensors_are_listed(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "off.safetensors"
    save_file({name: value for name, value in state.items() if not name.startswith("layer")}, path)
    message = refused(path)
    assert " and " in message
    assert " more" in message
    assert message.count("layer") == 3


def test_a_checkpoint_of_another_variant_is_refused(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "small.pth"
    torch.save(state, path)
    message = refused(path, model="resnext50_32x4d")
    assert "does not fit resnext50_32x4d" in message
    assert "Is `model`" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_nan_and_infinity_are_refused(
    tmp_path: Path, state: dict[str, Tensor], value: float, suffix: str
) -> None:
    state["layer2.0.conv1.weight"].view(-1)[3] = value
    path = tmp_path / f"bad{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, path)
    assert "layer2.0.conv1.weight" in refused(path)


def test_a_value_too_large_for_float32_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["fc.bias"] = torch.full_like(state["fc.bias"], 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "large.pth")
    assert "fc.bias" in refused(tmp_path / "large.pth")


class RunsCode:
    """Unpickled, it runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    tmp_path: Path, state: dict[str, Tensor], form: str
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    held = {**state, "fc.bias": RunsCode(f"touch '{marker}'")}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(held["fc.bias"]))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(path)
    assert "refused" in message
    assert "run code" in message
    assert not marker.exists()
    if form == "bare pickle":  # the trap does spring where it is opened carelessly
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path, shipped: Weights) -> None:
    path = tmp_path / "whole.pt"
    torch.save(load_model(shipped), path)
    assert "state_dict()" in refused(path)


@pytest.mark.parametrize("form", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(
    tmp_path: Path, state: dict[str, Tensor], form: str, part: float
) -> None:
    whole, path = tmp_path / f"whole{form}", tmp_path / f"cut{form}"
    if form == ".safetensors":
        save_file(state, whole)
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=form == ".pth")
    raw = whole.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    refused(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "raw",
    [
        b"hello, this is text\n" * 9,
        bytes(4096),
        b"\x80\x05",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"PK\x03\x04zip",
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, raw: bytes) -> None:
    path = tmp_path / f"other{suffix}"
    path.write_bytes(raw)
    refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_in_a_checkpoint_never_escapes_as_a_foreign_error(
    tmp_path: Path, state: dict[str, Tensor], zipped: bool
) -> None:
    whole, path = tmp_path / "whole.pth", tmp_path / "damaged.pth"
    few = {name: state[name] for name in list(state)[:4]}
    torch.save(few, whole, _use_new_zipfile_serialization=zipped)
    raw = whole.read_bytes()
    rng = np.random.default_rng(0)
    # The pickle, where damage is read as instructions, lies at the beginning in either form.
    for position in rng.integers(0, min(len(raw), 1500), 150):
        damaged = bytearray(raw)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        with pytest.raises(
            BadInput
        ):  # four tensors are not enough even where the damage does no harm
            load_weights(str(path), DIGITS)


@pytest.mark.parametrize(
    "held", [[1, 2], {}, {"fc.weight": 3}, torch.zeros(3), {"state_dict": {}}, "text", 7]
)
def test_a_pth_that_holds_no_state_dict_is_refused(tmp_path: Path, held: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(held, path)
    assert "state dict" in refused(path, BadInput)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    assert "no weights file" in refused(tmp_path / f"none{suffix}")
    refused(tmp_path / f"folder{suffix}")


GRAY = {"resize": 8, "crop": [8, 8], "mean": [0.5], "std": [0.5], "color": "L"}
RGB = {"resize": 8, "crop": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "color": "RGB"}


@pytest.mark.parametrize(
    "header",
    [
        {"class_names": ["only one"]},
        {"class_names": 5},
        {"class_names": None},
        {"preprocessing": {**GRAY, "std": [0.0]}},
        {"preprocessing": "usual"},
        {"preprocessing": RGB},  # three channels for a network of one
    ],
    ids=[
        "too few names",
        "names are a number",
        "names are null",
        "std of zero",
        "text",
        "three channels",
    ],
)
def test_a_header_that_does_not_fit_the_network_is_refused(
    tmp_path: Path, state: dict[str, Tensor], header: dict[str, object]
) -> None:
    path = tmp_path / "header.safetensors"
    save_file(state, path, {METADATA_KEY: json.dumps({"model": "resnext11_8x4d_digits", **header})})
    refused(path)


@pytest.mark.parametrize(
    "config", [{"depths": [0]}, {"stem": "huge"}, "resnext50_32x4d", {"depths": [1], "wide": 9}]
)
def test_a_header_with_a_configuration_that_is_not_valid_is_a_bad_file_and_no_wrong_call(
    tmp_path: Path, state: dict[str, Tensor], config: object
) -> None:
    path = tmp_path / "header.safetensors"
    save_file(state, path, {METADATA_KEY: json.dumps({"config": config})})
    refused(path, model=None)


def test_a_file_of_a_configuration_without_a_name_implies_it(tmp_path: Path) -> None:
    config = ResNeXtConfig((1, 1), 2, 4, (12, 20), 1, 5, stem="small", stem_channels=8)
    path = tmp_path / "own.safetensors"
    save_weights(load_weights("seeded:3", config), path)
    assert load_weights(str(path)).config == config


def test_a_header_that_is_not_json_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "header.safetensors"
    save_file(state, path, {METADATA_KEY: "{"})
    refused(path)


def test_another_input_size_than_the_files_keeps_a_valid_preprocessing(
    tmp_path: Path, shipped: Weights
) -> None:
    import dataclasses

    path = tmp_path / "copy.safetensors"
    save_weights(shipped, path)
    larger = dataclasses.replace(DIGITS, input_size=(28, 28))
    preprocessing = load_weights(str(path), larger).preprocessing
    assert preprocessing.crop == (28, 28)
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing


# ---- the shipped checkpoints


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_under_a_megabyte_and_has_an_image_of_each_class(name: str) -> None:
    shipped = SHIPPED[name]
    assert shipped.path.stat().st_size < 1_000_000
    assert sorted(
        int(path.name.partition("_")[0]) for path in shipped.images.glob("*.png")
    ) == list(range(10))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_know_their_own_sample_images(name: str) -> None:
    weights = load_weights(name)
    paths = sorted(SHIPPED[name].images.glob("*.png"))
    pixels = np.concatenate([weights.preprocessing.load(path) for path in paths])
    best = (
        load_model(weights)(torch.from_numpy(weights.preprocessing.normalize(pixels)))
        .argmax(1)
        .tolist()
    )
    right = sum(
        int(path.name.partition("_")[0]) == guess for path, guess in zip(paths, best, strict=True)
    )
    assert right >= 9


def test_shipped_digits_are_right_on_98_percent_of_their_test_split(shipped: Weights) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    data = digits()
    assert len(data.test_labels) == 359
    assert accuracy(shipped, data.test_images, data.test_labels) >= 0.98


@pytest.mark.exhaustive
@pytest.mark.skipif(
    not FASHION_DATA.is_dir(), reason="needs the Debian package dataset-fashion-mnist"
)
def test_shipped_fashion_mnist_is_right_on_91_percent_of_its_test_split() -> None:
    data = fashion_mnist()
    assert len(data.test_labels) == 10_000
    assert accuracy(load_weights("fashion-mnist"), data.test_images, data.test_labels) >= 0.91


@pytest.mark.exhaustive
@pytest.mark.slow
def test_training_digits_again_gives_a_network_as_good_and_the_same_one_twice(
    shipped: Weights,
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    data = digits()
    again, twice = (train(DIGITS, data, RECIPES["digits"]) for _ in range(2))
    assert again.sha256 == twice.sha256
    assert (again.preprocessing, again.class_names) == (shipped.preprocessing, shipped.class_names)
    # Another processor rounds differently, and training carries that far: the bytes are its own,
    # the digits are not.
    assert accuracy(again, data.test_images, data.test_labels) >= 0.98
    images = torch.from_numpy(shipped.preprocessing.normalize(data.test_images))
    agree = load_model(shipped)(images).argmax(1) == load_model(again)(images).argmax(1)
    assert float(agree.float().mean()) >= 0.97
