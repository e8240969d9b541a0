"""Checkpoints as trainers write them give the same tensors, whatever they have beside."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fakes.model_zoos import timm
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnext.network.config import ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.weights.spec import Weights, load_model, load_weights

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "checkpoints.md"
TINY = ResNeXtConfig((1, 1), 2, 4, (32, 32), 3, 5, stem="small", stem_channels=8)


@pytest.fixture(scope="module")
def tiny() -> Weights:
    return load_weights("seeded", TINY)


@pytest.fixture(scope="module")
def raw() -> Weights:
    """What is beside averaged weights."""
    return load_weights("seeded:1", TINY)


def trained(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """An optimizer and a scheduler with real states, after a step that changes nothing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    schedulers: list[Any] = [
        torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=2),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 4]),
    ]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, [2])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    scheduler.step()
    return optimizer, scheduler


def module_of(weights: Weights) -> ResNeXt:
    return load_model(weights).requires_grad_(True)


Write = Callable[[Path, Weights], Path]


def imagenet_example(folder: Path, weights: Weights) -> Path:
    """imagenet/main.py of pytorch/examples, under DataParallel or DistributedDataParallel."""
    model = module_of(weights)
    optimizer, scheduler = trained(model)
    state = {
        "epoch": 90,
        "arch": "resnext50_32x4d",
        "state_dict": nn.DataParallel(model).state_dict(),
        "best_acc1": torch.tensor(77.6),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    torch.save(state, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


#: What torchvision's parser gives, as far as it matters.
REFERENCE = {
    "model": "resnext50_32x4d",
    "lr": 0.5,
    "device": "cuda",
    "amp": True,
    "distributed": True,
    "val_resize_size": 40,
    "val_crop_size": 32,
    "interpolation": "bilinear",
}


def torchvision_reference(folder: Path, weights: Weights) -> Path:
    """references/classification/train.py of pytorch/vision."""
    model = module_of(weights)
    optimizer, scheduler = trained(model)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 599,
        "args": argparse.Namespace(**REFERENCE),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    torch.save(checkpoint, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def timm_train(folder: Path, weights: Weights, **options: Any) -> Path:
    """timm's own saver, as train.py calls it."""
    model = module_of(weights)
    optimizer, _ = trained(model)
    given = {"img_size": None, "mean": None, "std": None, "crop_pct": None, "interpolation": ""}
    args = argparse.Namespace(model="resnext50_32x4d", lr_noise=None, **{**given, **options})
    saver = timm().utils.CheckpointSaver(
        model, optimizer, args=args, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    saver.save_checkpoint(3, metric=np.float64(78.25))
    return folder / "model_best.pth.tar"


class Lit(nn.Module):
    """The state dict of a LightningModule is that of any module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))


def lightning(folder: Path, weights: Weights) -> Path:
    """Trainer.save_checkpoint of Lightning 2."""
    model = module_of(weights)
    optimizer, scheduler = trained(model)
    monitor = {"monitor": "val_loss", "best_model_score": torch.tensor(0.7), "best_k_models": {}}
    checkpoint = {
        "epoch": 9,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": Lit(model).state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": monitor},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "MixedPrecision": {"scale": 65536.0, "_growth_tracker": 3},
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "name": "resnext", "sizes": (1, 2)},
    }
    torch.save(checkpoint, folder / "epoch=9-step=1000.ckpt")
    return folder / "epoch=9-step=1000.ckpt"


def hub_file(folder: Path, weights: Weights, **options: Any) -> Path:
    """What huggingface_hub, accelerate and the Trainer of transformers save a module with."""
    hub = pytest.importorskip("huggingface_hub")
    hub.save_torch_model(module_of(weights), folder, **options)
    (path, *_) = [
        *folder.glob("*.index.json"),
        *folder.glob("*.safetensors"),
        *folder.glob("*.bin"),
    ]
    return path


def hub_shards(folder: Path, weights: Weights) -> Path:
    """The same, of networks that are larger than one file shall be."""
    path = hub_file(folder, weights, max_shard_size=10_000)
    assert path.name == "model.safetensors.index.json"
    return path


def hub_bin(folder: Path, weights: Weights) -> Path:
    """The same, from before safetensors."""
    path = hub_file(folder, weights, safe_serialization=False)
    assert path.name == "pytorch_model.bin"
    return path


def tutorial(folder: Path, weights: Weights) -> Path:
    """The general checkpoint of PyTorch's tutorial on saving and loading."""
    model = module_of(weights)
    optimizer, _ = trained(model)
    checkpoint = {
        "epoch": 5,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": torch.tensor(0.4),
    }
    torch.save(checkpoint, folder / "model.pt")
    return folder / "model.pt"


def averaged(folder: Path, weights: Weights) -> Path:
    """AveragedModel of torch.optim.swa_utils; compiled, its names have `_orig_mod.` before them."""
    state = torch.optim.swa_utils.AveragedModel(module_of(weights)).state_dict()
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, folder / "swa.pth")
    return folder / "swa.pth"


#: By the first column of the guide's table.
TRAINERS: Mapping[str, Write] = {
    "PyTorch's ImageNet example": imagenet_example,
    "torchvision's reference script": torchvision_reference,
    "timm's `train.py`": timm_train,
    "Lightning": lightning,
    "huggingface_hub, accelerate, transformers' Trainer": hub_file,
    "the same in shards": hub_shards,
    "the same as `.bin`": hub_bin,
    "PyTorch's tutorial": tutorial,
    "`AveragedModel`, `torch.compile`": averaged,
}
#: Of wrappers around the network, inside out.
PREFIXES = ("", "module.", "_orig_mod.", "backbone.", "net.module.", "module._orig_mod.model.")


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainers_checkpoint_gives_its_tensors(tmp_path: Path, tiny: Weights, name: str) -> None:
    weights = load_weights(str(TRAINERS[name](tmp_path, tiny)))
    assert weights.sha256 == tiny.sha256
    assert weights.config == TINY
    declares = name == "torchvision's reference script"
    assert weights.preprocessing_source == ("declared" if declares else "assumed")
    assert weights.class_names == ()


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_trainer_may_have_wrapped_the_network(
    tmp_path: Path, tiny: Weights, monkeypatch: pytest.MonkeyPatch, name: str, prefix: str
) -> None:
    class Wrapped(nn.Module):
        """As many modules as the prefix has parts."""

        def __init__(self, inner: nn.Module, name: str) -> None:
            super().__init__()
            self.add_module(name, inner)

    def wrapped(weights: Weights) -> nn.Module:
        model: nn.Module = load_model(weights).requires_grad_(True)
        for part in reversed(prefix.split(".")[:-1]):
            model = Wrapped(model, part)
        return model

    monkeypatch.setitem(globals(), "module_of", wrapped)
    weights = load_weights(str(TRAINERS[name](tmp_path, tiny)))
    assert weights.sha256 == tiny.sha256
    unwraps = name == "timm's `train.py`" and prefix in ("module.", "_orig_mod.")
    assert not prefix or unwraps or "took the prefix" in weights.notes[0]


def test_the_guide_lists_the_trainers_that_are_tested() -> None:
    table = GUIDE.read_text().partition("## Trainers")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    assert rows[2:] == list(TRAINERS)


# ---- preprocessing in the trainer's options

FULL = {
    "img_size": 32,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": (0.25, 0.25, 0.25),
}


def test_torchvisions_options_declare_the_preprocessing(tmp_path: Path, tiny: Weights) -> None:
    weights = load_weights(str(torchvision_reference(tmp_path, tiny)))
    assert weights.preprocessing == Preprocessing(
        resize=40, crop=(32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    assert weights.notes == (
        "the tensors are of a network of depths 1,1, cardinality 2 x 4, stem small x 8, 3 input"
        " channels, 5 classes; input 32x32",
    )


def test_timms_options_declare_it_if_they_leave_nothing_open(tmp_path: Path, tiny: Weights) -> None:
    weights = load_weights(str(timm_train(tmp_path, tiny, **FULL)))
    assert weights.preprocessing_source == "declared"
    assert weights.preprocessing == Preprocessing(
        resize=35, crop=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bicubic"
    )


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in FULL),
        {"interpolation": "random"},
        {"crop_mode": "squash"},
        {"crop_pct": 0},
        {"crop_pct": 1.2},
        {"mean": [0.5]},
        {"std": "0.5"},
    ],
    ids=str,
)
def test_options_that_leave_something_open_declare_nothing(
    tmp_path: Path, tiny: Weights, change: dict[str, Any]
) -> None:
    weights = load_weights(str(timm_train(tmp_path, tiny, **{**FULL, **change})))
    assert weights.preprocessing_source == "assumed"


def test_timms_input_size_counts_more_than_its_image_size(tmp_path: Path, tiny: Weights) -> None:
    for change in ({}, {"img_size": None}):
        options = {**FULL, **change, "input_size": [3, 40, 40]}
        weights = load_weights(str(timm_train(tmp_path, tiny, **options)))
        assert weights.preprocessing_source == "declared"
        assert (weights.preprocessing.crop, weights.preprocessing.resize) == ((40, 40), 44)


@pytest.mark.parametrize(
    ("change", "why", "scaled"),
    [
        ({"interpolation": "random"}, "interpolation 'random': only bilinear and bicubic", True),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'", True),
        ({"crop_mode": "squash"}, "crop_mode 'squash': only center", True),
        ({"crop_pct": 1.2}, "crop_pct 1.2", True),
        ({"input_size": [3, 40, 48]}, "a crop of 40x48", True),
        ({"mean": [123, 116, 103]}, "that is 0.482353,0.454902,0.403922", False),
        ({"std": [58, 57, 57]}, "that is 0.227451,0.223529,0.223529", False),
        ({"mean": [0.5]}, "`mean` [0.5] is not three numbers", False),
        ({"crop_pct": None}, None, True),
    ],
    ids=str,
)
def test_an_option_that_is_not_possible_is_said_and_the_others_are_kept(
    tmp_path: Path, tiny: Weights, change: dict[str, Any], why: str | None, scaled: bool
) -> None:
    options = {**FULL, "img_size": 40, **change}
    weights = load_weights(str(timm_train(tmp_path, tiny, **options)))
    pixels = weights.preprocessing
    assert weights.preprocessing_source == "assumed"
    assert (
        weights.config.input_size == pixels.crop == tuple(change.get("input_size", (3, 40, 40)))[1:]
    )
    kept = ((0.5,) * 3, (0.25,) * 3) if scaled else (IMAGENET_MEAN, IMAGENET_STD)
    assert (pixels.mean, pixels.std) == kept
    if why is None:
        assert len(weights.notes) == 1
    else:
        assert "options in the checkpoint are not possible here" in weights.notes[1]
        assert why in weights.notes[1]
        scale = ", mean and std" if scaled else ""
        said = f"kept of the trainer's options: the input size{scale}; the rest is assumed"
        assert weights.notes[2] == said


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"interpolation": "nearest"}, "interpolation 'nearest'"),
        ({"val_resize_size": 36}, "val_resize_size 36 for a crop of 40"),
    ],
    ids=str,
)
def test_torchvisions_options_that_are_not_possible_keep_the_input_size(
    tmp_path: Path, tiny: Weights, change: dict[str, Any], why: str
) -> None:
    args = argparse.Namespace(**{**REFERENCE, "val_resize_size": 44, "val_crop_size": 40, **change})
    torch.save({"model": dict(tiny.state_dict), "args": args}, tmp_path / "w")
    weights = load_weights(str(tmp_path / "w"))
    assert (weights.preprocessing_source, weights.config.input_size) == ("assumed", (40, 40))
    assert why in weights.notes[1]


def test_options_of_color_say_nothing_about_gray(tmp_path: Path) -> None:
    gray = load_weights("digits")
    content = {"model": dict(gray.state_dict), "args": argparse.Namespace(**REFERENCE)}
    torch.save(content, tmp_path / "w")
    weights = load_weights(str(tmp_path / "w"))
    assert weights.preprocessing_source == "assumed"
    assert weights.preprocessing.color == "L"


# ---- averaged weights


def test_timms_averaged_weights_are_chosen_by_their_key(
    tmp_path: Path, tiny: Weights, raw: Weights
) -> None:
    model = module_of(raw)
    ema = timm().utils.ModelEmaV3(module_of(tiny))
    saver = timm().utils.CheckpointSaver(
        model, trained(model)[0], model_ema=ema, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(1, metric=1.0)
    path = str(tmp_path / "model_best.pth.tar")
    assert load_weights(path, key="state_dict_ema").sha256 == tiny.sha256
    assert load_weights(path, key="state_dict").sha256 == raw.sha256


def test_torchvisions_averaged_weights_are_chosen_by_their_key(
    tmp_path: Path, tiny: Weights, raw: Weights
) -> None:
    ema = torch.optim.swa_utils.AveragedModel(module_of(tiny), use_buffers=True)
    content = {"model": module_of(raw).state_dict(), "model_ema": ema.state_dict()}
    torch.save(content, tmp_path / "w")
    weights = load_weights(str(tmp_path / "w"), key="model_ema")
    assert weights.sha256 == tiny.sha256
    assert "left out what is beside the network: n_averaged" in weights.notes


def test_an_ordered_state_dict_with_metadata_is_read(tmp_path: Path, tiny: Weights) -> None:
    state: OrderedDict[str, Tensor] = OrderedDict(tiny.state_dict)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # as Module.state_dict
    torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=False)
    assert load_weights(str(tmp_path / "w")).sha256 == tiny.sha256
