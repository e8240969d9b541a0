"""Weights by name: fetched once, from a hub and a file server on the loopback address."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save

from fakes.hub_server import HubServer, serving, write_certificate
from fakes.model_zoos import timm
from resnext import progress
from resnext.errors import (
    BadWeights,
    MissingRequirement,
    ResnextError,
    UnknownName,
    UsageError,
)
from resnext.network.config import VARIANTS, ResNeXtConfig
from resnext.network.model import ResNeXt
from resnext.weights.checkpoint import save_weights, state_dict_sha256
from resnext.weights.hub import named, published
from resnext.weights.hub.connection import connection_error
from resnext.weights.hub.imagenet import imagenet_class_names
from resnext.weights.hub.named import named_weights
from resnext.weights.hub.published import PUBLISHED, Published
from resnext.weights.hub.spelling import pinned
from resnext.weights.spec import load_model, load_weights

#: A small network in the layout of the large ones.
TINY = ResNeXtConfig((1, 1), 2, 4, (32, 32), stem_channels=8)
#: What timm writes beside such weights.
CONFIG: dict[str, Any] = {
    "architecture": "resnext50_32x4d",
    "num_classes": 3,
    "model_args": {"layers": [1, 1]},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "crop_pct": 0.95,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.25, 0.5],
        "label_names": ["n01", "n02", "n03"],
        "label_descriptions": {"n01": "tench", "n02": "goldfish"},
    },
}


def tensors(config: ResNeXtConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.contiguous() for name, value in ResNeXt(config).state_dict().items()}


THREE = tensors(replace(TINY, num_classes=3))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving() as server:
        server.connect(tmp_path, monkeypatch)
        yield server


@pytest.fixture
def tiny_release(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """torchvision and timm publish a small network; its file."""
    data = save(tensors(TINY))
    digest = hashlib.sha256(data).hexdigest()[:8]
    row = PUBLISHED["torchvision:resnext50_32x4d/IMAGENET1K_V2"]
    theirs = PUBLISHED["timm:resnext50_32x4d.a1h_in1k"]
    preprocessing = row.preprocessing.model_copy(update={"resize": 34, "crop": (32, 32)})
    rows = (
        replace(row, spec="torchvision:tiny/IMAGENET1K_V1", top1=1.0, sha256="00000000"),
        replace(row, spec="torchvision:tiny/IMAGENET1K_V2", sha256=digest),
        replace(theirs, spec="timm:tiny.a1h_in1k", source="timm/tiny.a1h_in1k"),
        replace(
            theirs, spec="timm:tiny.fb_in1k", source="timm/tiny.fb_in1k", license="cc-by-nc-4.0"
        ),
    )
    table: dict[str, Published] = {}
    for each in rows:
        url = f"{hub.url}/models/tiny-{each.sha256}.pth" if each.sha256 else each.source
        table[each.spec] = replace(each, model="tiny", preprocessing=preprocessing, source=url)
    for module in (named, published):
        monkeypatch.setattr(module, "PUBLISHED", table)
        monkeypatch.setattr(module, "ARCHITECTURES", {"tiny": TINY})
    hub.files[f"tiny-{digest}.pth"] = data
    hub.files["tiny-00000000.pth"] = data
    hub.add("timm/tiny.a1h_in1k", {"model.safetensors": data, "config.json": b"{}"})
    hub.add("timm/tiny.fb_in1k", {"model.safetensors": data})
    return data


def add(hub: HubServer, **changes: Any) -> str:
    """Serve the small network of three classes in timm's layout; returns the commit."""
    return add_files(hub, json.dumps({**CONFIG, **changes}).encode())


def add_files(hub: HubServer, config: bytes) -> str:
    return hub.add("me/net", {"config.json": config, "model.safetensors": save(THREE)})


def blob(tmp_path: Path) -> Path:
    [path] = (path for path in tmp_path.glob("hub/*/blobs/*") if len(path.name) == 64)
    return path


# ---- what comes with the weights


def test_torchvisions_weights_come_with_their_preprocessing_and_class_names(
    tiny_release: bytes, hub: HubServer, tmp_path: Path
) -> None:
    weights = load_weights("torchvision:tiny/IMAGENET1K_V2")
    assert weights.config == TINY
    assert weights.source == "torchvision:tiny/IMAGENET1K_V2"
    assert (weights.preprocessing.resize, weights.preprocessing.crop) == (34, (32, 32))
    assert weights.preprocessing_source == "published"
    assert weights.class_names == imagenet_class_names()
    assert weights.file_sha256 == hashlib.sha256(tiny_release).hexdigest()
    assert weights.sha256 == state_dict_sha256(tensors(TINY))
    assert weights.notes == ()
    # where torchvision itself looks
    [cached] = (tmp_path / "torch" / "hub" / "checkpoints").iterdir()
    assert cached.name == hub.paths()[0].rpartition("/")[2]


@pytest.mark.usefixtures("tiny_release")
def test_torchvisions_weights_are_those_of_the_chosen_model() -> None:
    for spec in ("torchvision:IMAGENET1K_V2", "torchvision:DEFAULT"):
        assert named_weights(spec, "tiny").source == "torchvision:tiny/IMAGENET1K_V2"
        assert named_weights(spec, TINY).source == "torchvision:tiny/IMAGENET1K_V2"
    with pytest.raises(UsageError, match="no weights for this configuration"):
        named_weights("torchvision:DEFAULT", VARIANTS["resnext152_32x4d"])


def test_the_default_model_of_torchvisions_weights_is_the_toolkits() -> None:
    found = named_weights("torchvision:IMAGENET1K_V2")
    assert found.source == "torchvision:resnext50_32x4d/IMAGENET1K_V2"
    assert found.preprocessing is not None
    assert found.preprocessing.resize == 232


def test_timms_weights_are_of_a_commit(tiny_release: bytes, hub: HubServer) -> None:
    weights = load_weights("timm:tiny.a1h_in1k")
    [commit] = hub.repositories["timm/tiny.a1h_in1k"].commits
    assert (weights.config, weights.revision) == (TINY, commit)
    assert weights.file_sha256 == hashlib.sha256(tiny_release).hexdigest()
    assert weights.preprocessing_source == "published"
    assert weights.provenance["revision"] == commit
    assert load_weights("timm:tiny").source == "timm:tiny.a1h_in1k"


@pytest.mark.usefixtures("tiny_release")
def test_a_license_without_commercial_use_is_said() -> None:
    [note] = load_weights("timm:tiny.fb_in1k").notes
    assert note == "the license of timm:tiny.fb_in1k, cc-by-nc-4.0, allows no commercial use"


@pytest.mark.usefixtures("tiny_release")
def test_what_the_table_knows_of_timms_repositories_holds_by_either_name() -> None:
    weights = load_weights("hf:timm/tiny.fb_in1k")
    assert "allows no commercial use" in weights.notes[-1]
    assert weights.class_names == imagenet_class_names()


@pytest.mark.usefixtures("tiny_release")
def test_another_model_is_refused_before_anything_is_fetched(hub: HubServer) -> None:
    for arguments in ({"model": "resnet50"}, {"num_classes": 7}):
        with pytest.raises(UsageError, match="are of another model"):
            load_weights("timm:tiny.a1h_in1k", **arguments)
    assert hub.requests == []


@pytest.mark.usefixtures("tiny_release")
def test_another_input_size_keeps_the_proportion_of_resize_to_crop() -> None:
    weights = load_weights("timm:tiny.a1h_in1k", input_size=(64, 64))
    assert weights.config == replace(TINY, input_size=(64, 64))
    assert (weights.preprocessing.resize, weights.preprocessing.crop) == (68, (64, 64))
    again = load_weights("timm:tiny.a1h_in1k", weights.config)
    assert again.preprocessing == weights.preprocessing


def test_a_repository_in_timms_layout_says_its_preprocessing_and_classes(hub: HubServer) -> None:
    commit = add(hub)
    weights = load_weights("hf:me/net")
    assert weights.config == replace(TINY, num_classes=3)
    assert (weights.source, weights.revision) == ("hf:me/net", commit)
    assert weights.preprocessing.model_dump() == {
        "resize": 33,
        "crop": (32, 32),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.25, 0.5),
        "color": "RGB",
        "interpolation": "bicubic",
        "layout": "NCHW",
    }
    assert weights.preprocessing_source == "declared"
    assert weights.class_names == ("tench", "goldfish", "n03")


def test_what_timm_itself_saves_for_the_hub_gives_timms_logits(
    hub: HubServer, tmp_path: Path
) -> None:
    theirs = timm().create_model(
        "resnext50_32x4d.a1h_in1k", layers=(1, 1, 1, 1), cardinality=2, num_classes=3
    )
    folder = tmp_path / "saved"
    timm().models.save_for_hf(theirs, folder, model_args={"layers": [1, 1, 1, 1]})
    hub.add("me/net", {path.name: path.read_bytes() for path in folder.iterdir()})
    weights = load_weights("hf:me/net")
    picture = PIL.Image.effect_noise((300, 260), 80).convert("RGB")
    data = timm().data
    transform = data.create_transform(**data.resolve_model_data_config(theirs))
    ours = weights.preprocessing.normalize(weights.preprocessing.to_pixels(picture)[np.newaxis])
    with torch.no_grad():
        expected = theirs.eval()(transform(picture)[None])
        actual = load_model(weights)(torch.from_numpy(ours))
    error = (actual - expected).abs().max() / expected.square().mean().sqrt()
    assert error < 1e-5
    assert weights.config.cardinality == 2


def test_an_older_config_has_all_in_one_part(hub: HubServer) -> None:
    flat = {"architecture": "resnext50_32x4d", **CONFIG["pretrained_cfg"], "labels": list("abc")}
    del flat["label_names"]
    add_files(hub, json.dumps(flat).encode())
    weights = load_weights("hf:me/net")
    assert weights.class_names == ("a", "b", "c")
    assert weights.preprocessing.interpolation == "bicubic"


def test_this_toolkits_own_files_need_no_config(hub: HubServer, tmp_path: Path) -> None:
    digits = load_weights("digits")
    save_weights(digits, tmp_path / "digits.safetensors")
    data = (tmp_path / "digits.safetensors").read_bytes()
    hub.add("me/digits", {"model.safetensors": data})
    weights = load_weights("hf:me/digits")
    assert weights.config == digits.config
    assert weights.preprocessing == digits.preprocessing
    assert weights.preprocessing_source == "declared"
    assert weights.class_names == digits.class_names


def test_without_any_word_on_it_the_preprocessing_is_assumed(hub: HubServer) -> None:
    hub.add("me/net", {"model.safetensors": save(THREE)})
    assert load_weights("hf:me/net", input_size=(32, 32)).preprocessing_source == "assumed"


@pytest.mark.parametrize("ending", ["bin", "shards"])
def test_other_files_than_one_of_safetensors(hub: HubServer, tmp_path: Path, ending: str) -> None:
    files = {"config.json": json.dumps(CONFIG).encode()}
    if ending == "bin":
        torch.save(THREE, tmp_path / "net.bin")
        files["pytorch_model.bin"] = (tmp_path / "net.bin").read_bytes()
    else:
        half = len(THREE) // 2
        parts = {"a.safetensors": list(THREE)[:half], "b.safetensors": list(THREE)[half:]}
        places = {name: file for file, names in parts.items() for name in names}
        index = {"metadata": {}, "weight_map": places}
        files["model.safetensors.index.json"] = json.dumps(index).encode()
        for file, names in parts.items():
            files[file] = save({name: THREE[name] for name in names})
    hub.add("me/net", files)
    weights = load_weights("hf:me/net")
    assert weights.sha256 == state_dict_sha256(THREE)


# ---- names


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("torchvision:IMAGENET1K_V3", "torchvision:resnext50_32x4d/IMAGENET1K_V2"),
        ("torchvision:resnext101/IMAGENET1K_V1", "resnext101_32x8d"),
        ("timm:resnext50_32x4d.a1h", "timm:resnext50_32x4d.a1h_in1k"),
        ("timm:resnext50_32x4", "timm:resnext50_32x4d"),
    ],
)
def test_an_unknown_name_lists_the_nearest(spec: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        named_weights(spec)
    assert caught.value.exit_code == 2
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "spec",
    [
        "hf:net",
        "hf:me/net/x",
        "hf:/net",
        "hf:me/",
        "hf:me/net@",
        "hf:a b/c",
        "timm:x@",
        "hf:a/b@../c",
    ],
)
def test_what_is_no_name_of_a_repository_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError):
        named_weights(spec)


def test_names_in_capitals_or_misspelled_schemes_are_no_paths() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'timm:resnext50_32x4d\.a1h_in1k'"):
        load_weights("tim:resnext50_32x4d.a1h_in1k")


def test_a_source_is_loaded_again_at_its_commit(hub: HubServer) -> None:
    first = add(hub)
    weights = load_weights("hf:me/net")
    second = add(hub, num_classes=3, changed=True)
    assert first != second
    assert load_weights("hf:me/net").revision == second
    assert load_weights(pinned(weights.source, weights.revision)).revision == first
    assert pinned("hf:me/net@main", first) == f"hf:me/net@{first}"
    assert pinned("timm:x.y", None) == "timm:x.y"
    assert pinned("torchvision:DEFAULT", "abc") == "torchvision:DEFAULT"
    assert pinned("/a/path@home.pth", "abc") == "/a/path@home.pth"


def test_config_and_weights_are_of_one_commit_though_the_branch_moves(hub: HubServer) -> None:
    first = add(hub)
    described = named_weights("hf:me/net")
    add(hub, changed=True)
    assert described.fetch()[1] == first


def test_a_branch_is_recorded_as_its_commit(hub: HubServer) -> None:
    commit = add(hub)
    hub.repositories["me/net"].revisions["v1"] = commit
    weights = load_weights("hf:me/net@v1")
    assert (weights.source, weights.revision) == ("hf:me/net", commit)


# ---- the caches


@pytest.mark.usefixtures("tiny_release")
def test_what_is_there_is_not_fetched_again(hub: HubServer) -> None:
    for spec in ("torchvision:tiny/IMAGENET1K_V2", "timm:tiny.a1h_in1k"):
        load_weights(spec)
        hub.requests.clear()
        load_weights(spec)
        assert hub.paths() == []


@pytest.mark.usefixtures("tiny_release")
@pytest.mark.parametrize("offline", [True, False])
def test_what_is_there_is_used_without_a_network(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    from huggingface_hub import constants

    add(hub)
    specs = ("torchvision:tiny/IMAGENET1K_V2", "timm:tiny.a1h_in1k", "hf:me/net")
    first = [load_weights(spec) for spec in specs]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket, "getaddrinfo", _unreachable)
    for spec, before in zip(specs, first, strict=True):
        again = load_weights(spec)
        assert (again.sha256, again.revision) == (before.sha256, before.revision)
        assert again.preprocessing == before.preprocessing


def _unreachable(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.usefixtures("tiny_release")
def test_torchvisions_file_goes_on_where_it_was_cut(hub: HubServer) -> None:
    hub.cut, hub.cut_after = 1, 1000
    with pytest.raises(
        MissingRequirement, match=r"cut after 1000 of \d+ bytes; try again: it goes"
    ):
        load_weights("torchvision:tiny/IMAGENET1K_V2")
    load_weights("torchvision:tiny/IMAGENET1K_V2")
    assert [request[2] for request in hub.requests] == [None, "bytes=1000-"]


@pytest.mark.usefixtures("tiny_release")
@pytest.mark.parametrize("left", [b"", b"x" * 100, b"x" * 10_000_000])
def test_what_an_earlier_call_left_is_never_part_of_a_wrong_file(
    hub: HubServer, tmp_path: Path, left: bytes
) -> None:
    name = next(name for name in hub.files if "00000000" not in name)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"{name}.part").write_bytes(left)
    if left:
        with pytest.raises(BadWeights, match="is not the published one"):
            load_weights("torchvision:tiny/IMAGENET1K_V2")
    load_weights("torchvision:tiny/IMAGENET1K_V2")


@pytest.mark.usefixtures("tiny_release")
def test_a_server_without_ranges_starts_over(hub: HubServer) -> None:
    hub.cut, hub.cut_after, hub.ranges = 1, 1000, False
    with pytest.raises(MissingRequirement):
        load_weights("torchvision:tiny/IMAGENET1K_V2")
    load_weights("torchvision:tiny/IMAGENET1K_V2")


def test_a_repositorys_file_goes_on_where_it_was_cut(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    add(hub)
    hub.cut, hub.cut_after = 2, 1000
    load_weights("hf:me/net")
    ranges = [request[2] for request in hub.requests if request[1].startswith("/large/")]
    assert ranges == [None, "bytes=1000-", "bytes=2000-"]


def test_a_token_opens_a_gated_repository_and_is_not_sent_elsewhere(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub)
    hub.repositories["me/net"].gated = True
    monkeypatch.setenv("HF_TOKEN", hub.token)
    load_weights("hf:me/net")
    assert {request[3] for request in hub.requests if request[1].startswith("/me/")} == {
        f"Bearer {hub.token}"
    }
    assert {request[3] for request in hub.requests if request[1].startswith("/large/")} == {None}


# ---- errors: one line each, and what to do


def refused(spec: str, kind: type[ResnextError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        load_weights(spec)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.hint or kind is UsageError


def test_no_such_repository_revision_or_weights(hub: HubServer) -> None:
    add(hub)
    hub.add("me/empty", {"config.json": b"{}", "README.md": b"nothing"})
    refused("hf:me/nothing", UsageError, "no repository me/nothing", "HF_TOKEN")
    refused("hf:me/net@v9", UsageError, "me/net has no revision v9")
    refused("hf:me/empty", BadWeights, "me/empty has none of the files model.safetensors")


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_gated_repository(hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    add(hub)
    hub.repositories["me/net"].gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    refused("hf:me/net", MissingRequirement, "me/net is gated", "accept its terms", "HF_TOKEN")


@pytest.mark.parametrize(
    ("status", "word"),
    [(403, "HF_TOKEN"), (407, "HTTPS_PROXY"), (429, "later"), (503, "later")],
)
def test_a_hub_that_refuses(hub: HubServer, status: int, word: str) -> None:
    add(hub)
    hub.status = status
    refused("hf:me/net", MissingRequirement, f"answered {status}", word)


def test_an_endpoint_that_is_no_hub(hub: HubServer) -> None:
    hub.status = 200
    refused("hf:me/net", MissingRequirement, hub.url, "X-Repo-Commit")


@pytest.mark.usefixtures("tiny_release")
def test_a_file_that_is_no_longer_there(hub: HubServer) -> None:
    hub.files.clear()
    refused("torchvision:tiny/IMAGENET1K_V2", MissingRequirement, "answered 404")


@pytest.mark.usefixtures("tiny_release")
def test_a_wrong_checksum(hub: HubServer, tmp_path: Path) -> None:
    refused("torchvision:tiny/IMAGENET1K_V1", BadWeights, "sha256 does not begin with 00000000")
    assert list((tmp_path / "torch" / "hub" / "checkpoints").glob("*.pth")) == []
    hub.altered = True
    refused("timm:tiny.a1h_in1k", BadWeights, "is damaged: its sha256", "delete")


def test_a_damaged_cache(tiny_release: bytes, tmp_path: Path) -> None:
    load_weights("torchvision:tiny/IMAGENET1K_V2")
    load_weights("timm:tiny.a1h_in1k")
    [cached] = (tmp_path / "torch" / "hub" / "checkpoints").glob("*.pth")
    for path, spec in (
        (cached, "torchvision:tiny/IMAGENET1K_V2"),
        (blob(tmp_path), "timm:tiny.a1h_in1k"),
    ):
        path.chmod(0o644)
        path.write_bytes(tiny_release[:-1] + b"x")
        refused(spec, BadWeights, "is damaged", "delete")


def test_a_connection_that_is_always_cut(hub: HubServer) -> None:
    add(hub)
    hub.cut, hub.cut_after = 100, 0
    refused("hf:me/net", MissingRequirement, "could not be fetched", "try again")


@pytest.mark.usefixtures("tiny_release")
@pytest.mark.parametrize("spec", ["torchvision:tiny/IMAGENET1K_V2", "hf:me/net"])
def test_a_full_disk(hub: HubServer, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    add(hub)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "http_get", full)
    monkeypatch.setattr(os, "fsync", full)
    refused(spec, MissingRequirement, "the disk has no room", "HOME")


@pytest.mark.usefixtures("tiny_release")
@pytest.mark.parametrize("spec", ["torchvision:tiny/IMAGENET1K_V2", "hf:me/net"])
def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path, spec: str) -> None:
    add(hub)
    (tmp_path / "torch").write_text("a file")
    (tmp_path / "hub").write_text("a file")
    refused(spec, MissingRequirement, "cannot write", "_HOME")


@pytest.mark.usefixtures("tiny_release")
def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _unreachable)
    refused("hf:me/net", MissingRequirement, "cannot be reached", "hf download me/net", "copy")
    refused("torchvision:tiny/IMAGENET1K_V2", MissingRequirement, "not known", "copy the file to")


#: Ways in which a host takes no connection, by what the error says of each.
DISCONNECTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "Connection refused": lambda patch: move_hub(patch, "http://127.0.0.1:9"),
    "Name or service not known": lambda patch: patch.setattr(socket, "getaddrinfo", _unreachable),
    "timed out": lambda patch: patch.setattr(socket.socket, "connect", _silent),
}


def move_hub(patch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        template = getattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", "")
        template = template.replace(constants.ENDPOINT, url)
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    patch.setattr(constants, "ENDPOINT", url)


def _silent(*_: Any) -> None:
    raise TimeoutError("timed out")


@pytest.fixture
def no_wait(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test fails if anything waits for another try, or takes two seconds."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    started = time.monotonic()
    yield
    assert (hub.requests, waits) == ([], [])
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("tiny_release", "no_wait")
@pytest.mark.parametrize("reason", DISCONNECTED)
@pytest.mark.parametrize("spec", ["timm:tiny.a1h_in1k", "hf:me/net"])
def test_a_hub_that_takes_no_connection_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spec: str, reason: str
) -> None:
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "level", logging.WARNING)
    DISCONNECTED[reason](monkeypatch)
    asked, resolve = [], socket.getaddrinfo

    def observed(*arguments: Any, **others: Any) -> Any:
        asked.append(arguments)
        return resolve(*arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", observed)
    refused(spec, MissingRequirement, "is not in the cache", "cannot be reached", reason)
    assert len(asked) == 1  # not for each file
    assert caplog.records == []


@pytest.mark.usefixtures("tiny_release")
@pytest.mark.parametrize("reason", DISCONNECTED)
def test_what_is_there_is_used_if_the_hub_takes_no_connection(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    add(hub)
    hub.add("me/plain", {"model.safetensors": save(tensors(TINY))})
    specs = ("timm:tiny.a1h_in1k", "hf:me/net", "hf:me/plain")
    first = [load_weights(spec) for spec in specs]
    hub.requests.clear()
    DISCONNECTED[reason](monkeypatch)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for spec, before in zip(specs, first, strict=True):
        again = load_weights(spec)
        assert (again.sha256, again.revision) == (before.sha256, before.revision)
    assert (hub.requests, waits) == ([], [])


def test_each_kind_of_address_may_be_silent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def connect(_: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[0])
        if address[0] == "::1":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if address[0] != "127.0.0.9":
            raise TimeoutError("timed out")

    def resolve(*hosts: str) -> None:
        found = [
            (
                socket.AF_INET6 if ":" in host else socket.AF_INET,
                socket.SOCK_STREAM,
                0,
                "",
                (host, 9),
            )
            for host in hosts
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        tried.clear()

    monkeypatch.setattr(socket.socket, "connect", connect)
    resolve("::2", "::3", "127.0.0.9")
    assert connection_error("https://hub") is None
    assert tried == ["::2", "127.0.0.9"]
    resolve("127.0.0.1", "127.0.0.2", "::1", "::2")
    assert isinstance(connection_error("https://hub"), TimeoutError)
    assert tried == ["127.0.0.1", "::1", "::2"]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_connects_itself(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert isinstance(connection_error("http://127.0.0.1:9"), ConnectionRefusedError)
    monkeypatch.setenv(variable, "http://proxy:3128")
    assert connection_error("http://127.0.0.1:9") is None


@pytest.mark.parametrize("url", ["huggingface.co", "http://", "http://h:x", "http://["])
def test_what_names_no_server_is_left_to_the_library(url: str) -> None:
    assert connection_error(url) is None


@pytest.mark.parametrize(("level", "lines"), [(logging.WARNING, False), (logging.INFO, True)])
def test_the_librarys_log_is_shown_on_request_only(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    level: int,
    lines: bool,
) -> None:
    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "level", level)
    hub.status = 503
    refused("hf:me/net", MissingRequirement, "answered 503")
    assert any("Retrying" in record.message for record in caplog.records) == lines
    assert logger.level == level


def test_an_index_whose_shards_are_not_there(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = json.dumps({"weight_map": {"conv1.weight": "model-1.safetensors"}}).encode()
    hub.add("me/net", {"model.safetensors.index.json": index, "config.json": b"{}"})
    refused("hf:me/net", BadWeights, "has no model-1.safetensors", "index.json")
    move_hub(monkeypatch, "http://127.0.0.1:9")
    refused("hf:me/net", MissingRequirement, "cannot be reached", "Connection refused")


@pytest.mark.usefixtures("tiny_release")
def test_a_proxy_with_a_certificate_of_its_owner(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "proxy.pem"
    write_certificate(certificate)
    with serving(certificate) as behind:
        behind.connect(tmp_path, monkeypatch)
        row = published.PUBLISHED["torchvision:tiny/IMAGENET1K_V2"]
        behind.files = hub.files
        url = row.source.replace(hub.url, behind.url)
        monkeypatch.setattr(named, "PUBLISHED", {row.spec: replace(row, source=url)})
        add(behind)
        for spec in (row.spec, "hf:me/net"):
            refused(spec, MissingRequirement, "CERTIFICATE_VERIFY_FAILED", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for spec in (row.spec, "hf:me/net"):
            load_weights(spec)


@pytest.mark.usefixtures("hub")
def test_offline_without_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("hf:me/net", MissingRequirement, "HF_HUB_OFFLINE is set", "hf download me/net")


@pytest.mark.usefixtures("tiny_release")
def test_a_server_that_stops_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnext.weights.hub import download

    with socket.create_server(("127.0.0.1", 0)) as silent:
        row = published.PUBLISHED["torchvision:tiny/IMAGENET1K_V2"]
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/models/x.pth"
        table = {row.spec: replace(row, source=url)}
        monkeypatch.setattr(named, "PUBLISHED", table)
        monkeypatch.setattr(download, "_TIMEOUT_S", 0.05)
        refused(row.spec, MissingRequirement, "timed out", "try again")


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("timm:resnxt50_32x4d.a1h_in1k", "did you mean 'timm:resnext50_32x4d.a1h_in1k'"),
        ("timm:resnxt50_32x4d", "did you mean 'timm:resnext50_32x4d'"),
        ("timm:seresnext50_32x4d.racm_in1k", "not among those of this family; see `list_weights`"),
    ],
)
def test_a_slip_of_the_pen_is_told_from_another_architecture(spec: str, word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(word)):
        named_weights(spec)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(
        "timm:resnext50_32x4d.a1h_in1k",
        MissingRequirement,
        "not installed",
        "pip install 'resnext-toolkit[hub]'",
    )


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (b"{", "config.json of me/net is not usable: Expecting"),
        (b"[]", "no JSON object"),
        (json.dumps({"architectures": ["ResNetForImageClassification"]}).encode(), "transformers"),
        (
            json.dumps(
                {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], "std": [0, 1, 1]}}
            ).encode(),
            "`std` must be positive",
        ),
        (
            json.dumps(
                {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"], "crop_mode": "squash"}}
            ).encode(),
            "crop_mode is 'squash'",
        ),
        (
            json.dumps({**CONFIG, "label_names": ["one"]}).encode(),
            "1 class names for 3 logits",
        ),
        (json.dumps({**CONFIG, "global_pool": "max"}).encode(), "(global_pool 'max')"),
        (
            json.dumps({**CONFIG, "model_args": {"output_stride": 8}}).encode(),
            "(model_args output_stride='8')",
        ),
        (
            json.dumps({**CONFIG, "architecture": "resnetblur50"}).encode(),
            "(architecture 'resnetblur50')",
        ),
    ],
)
def test_a_config_that_is_not_usable(hub: HubServer, config: bytes, word: str) -> None:
    add_files(hub, config)
    with pytest.raises(BadWeights, match=re.escape(word)):
        load_weights("hf:me/net")


def test_an_architecture_of_another_family_is_a_note(hub: HubServer) -> None:
    add_files(hub, json.dumps({**CONFIG, "architecture": "seresnext50_32x4d"}).encode())
    assert "calls its network 'seresnext50_32x4d'" in load_weights("hf:me/net").notes[-1]


def test_shards_outside_the_folder_are_refused(hub: HubServer) -> None:
    index = json.dumps({"weight_map": {"conv1.weight": "../../../secret"}}).encode()
    hub.add("me/net", {"model.safetensors.index.json": index})
    with pytest.raises(BadWeights, match="not files beside it"):
        load_weights("hf:me/net")


# ---- nothing but what was asked for


def test_no_test_reaches_the_outside() -> None:
    from huggingface_hub import constants

    assert constants.ENDPOINT == "http://127.0.0.1:9"
    with pytest.raises(MissingRequirement, match=r"tests must not reach download\.pytorch\.org"):
        load_weights("torchvision:resnext50_32x4d/IMAGENET1K_V2")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("spec", ["torchvision:tiny/IMAGENET1K_V2", "timm:tiny.a1h_in1k"])
@pytest.mark.usefixtures("tiny_release")
def test_a_terminal_shows_progress_instead_of_the_spinner(
    monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    terminal, spinning = Terminal(), []
    answer = BaseHTTPRequestHandler.end_headers

    def observed(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "GET":
            spinning.append([each.live.is_started for each in progress._spinning])
        answer(handler)

    monkeypatch.setattr(BaseHTTPRequestHandler, "end_headers", observed)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.working("loading weights"):
        load_weights(spec)
        assert [each.live.is_started for each in progress._spinning] == [True]
    if spec.startswith("timm"):
        assert spinning == [[False]]  # the library draws its bar
    else:  # the bar comes with the answer
        assert "tiny-" in terminal.getvalue()


def test_a_bar_takes_the_spinners_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress.working("loading weights"):
        [spinner] = progress._spinning
        with progress.transfer("file", 10, 0):
            assert not spinner.live.is_started
        assert spinner.live.is_started


@pytest.mark.usefixtures("tiny_release")
def test_nothing_is_said_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    load_weights("torchvision:tiny/IMAGENET1K_V2")
    load_weights("timm:tiny.a1h_in1k")
    assert capfd.readouterr() == ("", "")


def test_no_telemetry_is_sent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os, resnext; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
