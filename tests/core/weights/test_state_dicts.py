"""Which tensors of a checkpoint are the network's, under whatever names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from resnext.errors import BadInput, BadWeights, UnknownName, UsageError
from resnext.network.config import ResNeXtConfig
from resnext.weights.spec import Weights, load_weights
from resnext.weights.state_dicts import WRAPPERS, chosen_network

TINY = ResNeXtConfig((1, 1), 2, 4, (8, 8), 3, 5, stem="small", stem_channels=8)


@pytest.fixture(scope="module")
def tiny() -> Weights:
    return load_weights("seeded", TINY)


@pytest.fixture(scope="module")
def other() -> Weights:
    return load_weights("seeded:1", TINY)


def prefixed(state: Any, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def saved(folder: Path, content: object) -> str:
    torch.save(content, folder / "w.ckpt")
    return str(folder / "w.ckpt")


def refused(folder: Path, content: object, kind: type[Exception] = BadWeights) -> str:
    with pytest.raises(kind) as caught:
        load_weights(saved(folder, content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- prefixes

#: In any order and number, as wrappers of wrappers leave them.
PARTS = (*WRAPPERS, "model", "backbone", "net", "encoder", "resnet", "student", "0")


@given(st.lists(st.sampled_from(PARTS), max_size=4))
def test_a_prefix_of_all_names_is_taken_off_and_said(parts: list[str]) -> None:
    names = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight", "fc.bias")
    state = {name: torch.zeros(1) for name in names}
    prefix = "".join(f"{part}." for part in parts)
    network = chosen_network(prefixed(state, prefix), Path("w"))
    assert list(network.tensors) == list(names)
    assert network.notes == (
        (f"took the prefix {prefix[:80]} off the names of the tensors",) if prefix else ()
    )


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.backbone._orig_mod.", "net.model."]
)
def test_a_prefix_changes_no_tensor(tmp_path: Path, tiny: Weights, prefix: str) -> None:
    weights = load_weights(saved(tmp_path, prefixed(tiny.state_dict, prefix)), TINY)
    assert weights.sha256 == tiny.sha256
    assert f"took the prefix {prefix}" in weights.notes[0]


def test_a_wrapper_in_the_middle_of_names_is_taken_off(tmp_path: Path, tiny: Weights) -> None:
    state = {n.replace("layer1.", "layer1._orig_mod."): v for n, v in tiny.state_dict.items()}
    weights = load_weights(saved(tmp_path, state), TINY)
    assert weights.sha256 == tiny.sha256
    assert "_orig_mod." in weights.notes[0]


def test_names_that_fall_together_are_refused_under_every_prefix(
    tmp_path: Path, tiny: Weights
) -> None:
    for wrapper in WRAPPERS:
        state = prefixed({**tiny.state_dict, f"{wrapper}.fc.bias": torch.zeros(5)}, "model.")
        assert "holds model.fc.bias twice" in refused(tmp_path, state)


# ---- beside the network


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize(
    "name",
    ["criterion.weight", "loss_fn.weight", "n_averaged", "train_acc.tp", "val_accuracy_5.total"],
)
def test_losses_and_metrics_are_left_out_and_said(
    tmp_path: Path, tiny: Weights, prefix: str, name: str
) -> None:
    state = {**prefixed(tiny.state_dict, prefix), name: torch.zeros(3)}
    weights = load_weights(saved(tmp_path, state), TINY)
    assert weights.sha256 == tiny.sha256
    assert f"left out what is beside the network: {name}" in weights.notes[-1]


@pytest.mark.parametrize("name", ["classifier.weight", "head.weight", "mean", "normalize.mean"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_may_change_the_logits_is_not_left_out(
    tmp_path: Path, tiny: Weights, prefix: str, name: str
) -> None:
    state = {**prefixed(tiny.state_dict, prefix), name: torch.zeros(3)}
    assert name in refused(tmp_path, state)


# ---- several


def lightning(raw: Any, ema: Any) -> dict[str, Any]:
    return {
        "state_dict": {**prefixed(raw, "model."), **prefixed(ema, "ema_model.module.")},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.zeros(())}},
    }


SEVERAL: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "timm": (lambda r, e: {"state_dict": r, "state_dict_ema": e}, "state_dict", "state_dict_ema"),
    "torchvision": (
        lambda r, e: {
            "model": r,
            "model_ema": {**prefixed(e, "module."), "n_averaged": torch.tensor(3)},
        },
        "model",
        "model_ema",
    ),
    "basicsr": (lambda r, e: {"params": r, "params_ema": e}, "params", "params_ema"),
    "nested": (lambda r, e: {"a": {"net": r, "ema": e}}, "a.net", "a.ema"),
    "one dictionary": (lightning, "state_dict.model", "state_dict.ema_model"),
    "callback": (
        lambda r, e: {"state_dict": r, "callbacks": {"EMA": {"weights": e}}},
        "state_dict",
        "callbacks.EMA.weights",
    ),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_of_several_networks_none_is_chosen_in_silence(
    tmp_path: Path, tiny: Weights, other: Weights, form: str
) -> None:
    make, raw, averaged = SEVERAL[form]
    path = saved(tmp_path, make(dict(tiny.state_dict), dict(other.state_dict)))
    with pytest.raises(BadWeights, match="holds 2 state dicts") as caught:
        load_weights(path, TINY)
    assert raw in caught.value.message
    assert averaged in caught.value.message
    assert "`weights_key`" in caught.value.hint
    assert ("timm takes" in caught.value.hint) == (form in ("timm", "torchvision"))
    for key, expected in ((raw, tiny), (averaged, other)):
        weights = load_weights(path, TINY, key=key)
        assert weights.sha256 == expected.sha256
        assert weights.provenance["key"] == weights.key == key
    with pytest.raises(UnknownName, match="unknown `weights_key` 'ema2'"):
        load_weights(path, TINY, key="ema2")


def test_one_dictionary_under_two_keys_is_one_network(tmp_path: Path, tiny: Weights) -> None:
    state = dict(tiny.state_dict)
    path = saved(tmp_path, {"model": state, "best": state})
    assert load_weights(path, TINY).sha256 == tiny.sha256


def test_a_key_for_a_file_of_one_chooses_nothing_and_says_so(tmp_path: Path, tiny: Weights) -> None:
    path = saved(tmp_path, {"net": dict(tiny.state_dict)})
    assert load_weights(path, TINY, key="net").key == "net"
    with pytest.raises(UnknownName):
        load_weights(path, TINY, key="ema")
    save_file(dict(tiny.state_dict), tmp_path / "w.safetensors")
    weights = load_weights(str(tmp_path / "w.safetensors"), TINY, key="net")
    assert weights.key is None
    assert weights.notes == (
        "w.safetensors holds one state dict, so `weights_key` net chooses nothing",
    )
    with pytest.raises(UsageError, match="`weights_key` chooses a state dict in a file; drop it"):
        load_weights("seeded", key="net")


def test_optimizers_and_losses_are_no_networks(tmp_path: Path, tiny: Weights) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(8, 3, 3, 3), "step": torch.tensor(1.0)}}}
    content = {
        "state_dict": dict(tiny.state_dict),
        "optimizer": optimizer,
        "criterion": {"weight": torch.ones(5)},
        "loops": {"fit": {"state": {}}},
    }
    assert load_weights(saved(tmp_path, content), TINY).sha256 == tiny.sha256


def test_a_separate_classifier_is_not_left_out(tmp_path: Path, tiny: Weights) -> None:
    content = {"backbone": dict(tiny.state_dict), "head": {"weight": torch.zeros(7, 64)}}
    assert "holds 2 state dicts: backbone, head" in refused(tmp_path, content)


def test_a_dictionary_that_contains_itself_ends(tmp_path: Path, tiny: Weights) -> None:
    content: dict[str, Any] = {"state_dict": dict(tiny.state_dict)}
    content["self"] = content
    assert load_weights(saved(tmp_path, content), TINY).sha256 == tiny.sha256
    deep: dict[str, Any] = {}
    for name in ("a", "b", "c", "d", "e", "f"):
        deep = {name: deep or dict(tiny.state_dict), "x": 1}
    assert "holds no state dict" in refused(tmp_path, deep, BadInput)


def test_a_dictionary_that_is_shared_exponentially_often_is_read_once(tmp_path: Path) -> None:
    content: dict[str, Any] = {"x": 1}
    for _ in range(20):
        content = {str(at): content for at in range(50)}
    assert "holds no state dict" in refused(tmp_path, content, BadInput)


# ---- element types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted_and_said(
    tmp_path: Path, tiny: Weights, dtype: torch.dtype
) -> None:
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in tiny.state_dict.items()}
    weights = load_weights(saved(tmp_path, state), TINY)
    assert torch.equal(weights.state_dict["fc.weight"], state["fc.weight"].float())
    name = str(dtype).removeprefix("torch.")
    assert weights.notes == (f"converted tensors of {name} to float32",)


def test_prefix_and_wrapper_and_type_are_said_one_line_each(tmp_path: Path, tiny: Weights) -> None:
    state = {n: v.half() for n, v in tiny.state_dict.items() if "num_batches" not in n}
    weights = load_weights(saved(tmp_path, {"state_dict": prefixed(state, "model.")}))
    starts = ("took the prefix model.", "the tensors are of a network", "converted tensors of")
    assert len(weights.notes) == len(starts)
    assert all(note.startswith(start) for note, start in zip(weights.notes, starts, strict=True))


def test_every_wrapper_alone_and_in_pairs_is_known(tiny: Weights) -> None:
    for pair in itertools.product(WRAPPERS, repeat=2):
        state = prefixed(tiny.state_dict, ".".join((*pair, "")))
        assert chosen_network(state, Path("w")).tensors.keys() == tiny.state_dict.keys()
