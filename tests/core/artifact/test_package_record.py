"""A package for another machine, PyTorch or device, or an altered one, is refused before its code
is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.package import FakeLoader, facts_of, fake_package, record_here, write_package
from resnext.artifact.manifest import BatchRange
from resnext.artifact.records import PackageRecord
from resnext.artifact.specs import TensorSpec
from resnext.errors import BadArtifact, MissingRequirement, UsageError
from resnext.machine.machine import Host
from resnext.network.config import variant
from resnext.runtimes.pt2.door import open_session
from resnext.runtimes.pt2.package import read_package
from resnext.runtimes.pt2.record import loadable, this_host
from resnext.runtimes.registry import SessionOptions
from resnext.weights.spec import Weights, load_weights

CPU = SessionOptions(device="cpu")
Against = Callable[[PackageRecord, Host], tuple[str, ...]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> list[FakeLoader]:
    """Every loader that was made: a package that is refused has none."""
    made: list[FakeLoader] = []

    def make(*_: object) -> FakeLoader:
        made.append(FakeLoader(lambda images: images))
        return made[-1]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", make)
    return made


# What a package depends on.


@pytest.fixture
def against(weights: Weights, tmp_path: Path) -> Against:
    """Messages of `loadable` on a package with that record, on that host."""
    manifest = fake_package(tmp_path / "any", weights).manifest

    def messages(record: PackageRecord, host: Host) -> tuple[str, ...]:
        found = loadable(manifest.model_copy(update={"package": record}), host)
        return tuple(finding.message for finding in found)

    return messages


def test_a_package_of_this_machine_has_nothing_against_it(
    weights: Weights, against: Against
) -> None:
    assert against(record_here(weights), this_host()) == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"torch": "2.9.1+cpu"}, r"compiled by PyTorch 2\.9\.1\+cpu, installed is"),
        ({"platform": "linux-riscv64"}, "compiled on linux-riscv64, this is"),
        ({"cpu_flags": ("avx9000",)}, "may use avx9000, which this processor lacks"),
        (
            {"cpu_flags": (), "cpu_capability": "AVX9000"},
            "compiled for AVX9000, this processor has",
        ),
        ({"device": "cuda", "compute_capability": "9.0"}, "PyTorch can use none here"),
    ],
)
def test_a_package_of_another_machine_is_refused_unloaded(
    changes: dict[str, Any], named: str, weights: Weights, tmp_path: Path, loaders: list[FakeLoader]
) -> None:
    if "avx9000" in changes.get("cpu_flags", ()) and not this_host().cpu_flags:
        pytest.skip("this system does not tell its processor's features")
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    artifact = fake_package(tmp_path, weights, record_here(weights, **changes))
    with pytest.raises(MissingRequirement, match=named) as caught:
        open_session(artifact, SessionOptions(), "pt2")
    assert "export it again on this machine" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not loaders


def test_processor_features_of_another_machine_are_compared_one_by_one(
    weights: Weights, against: Against
) -> None:
    record = record_here(weights, cpu_flags=("avx2", "avx512f"))
    host = replace(this_host(), cpu_flags=frozenset({"avx2", "avx512f", "amx_tile"}))
    assert against(record, host) == ()  # more than it needs
    (told,) = against(record, replace(host, cpu_flags=frozenset({"avx2"})))
    assert told == "its code may use avx512f, which this processor lacks"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"torch": "2.13.0+cpu"}, []),  # a build of the same source
        (
            {"compute_capability": "8.9"},
            ["compiled for compute capability 9.0 (H200), this GPU has 8.9"],
        ),
        ({"cuda": "12.8"}, ["compiled for CUDA 13.0, this PyTorch is for CUDA 12.8"]),
        ({"cuda": "13.1"}, []),
        ({"compute_capability": None}, ["PyTorch can use none here"]),
        (
            {"torch": "2.14.0", "compute_capability": "10.0"},
            ["PyTorch 2.13.0+cu130", "compute capability 9.0"],
        ),
    ],
)
def test_a_cuda_package_asks_for_its_gpu_and_cuda(
    changes: dict[str, Any], told: list[str], weights: Weights, against: Against
) -> None:
    made = {"torch": "2.13.0+cu130", "cuda": "13.0", "compute_capability": "9.0"}
    record = record_here(weights, device="cuda", gpu="H200", **made)
    found = against(record, replace(this_host(), **{**made, **changes}))
    assert len(found) == len(told)
    assert all(words in reason for words, reason in zip(told, found, strict=True))


def test_another_device_than_asked_for_is_a_usage_error(weights: Weights, tmp_path: Path) -> None:
    artifact = fake_package(tmp_path, weights)
    with pytest.raises(UsageError, match="compiled for cpu; drop `device` cuda"):
        open_session(artifact, SessionOptions(device="cuda"), "pt2")


# What a package says of itself.


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"preprocessing": {"mean": (0.9,)}}, "preprocessing"),
        ({"preprocessing_baked": True}, "preprocessing_baked"),
        ({"class_names": ()}, "class_names"),
        ({"weights": {"sha256": "0" * 64}}, "weights_sha256"),
        ({"precision": "fp16"}, "precision"),
        ({"batch": BatchRange(min=1, opt=1, max=2)}, "batch"),
        ({"inputs": (TensorSpec(name="image", dtype="float32", shape=(None, 1, 8, 8)),)}, "inputs"),
        ({"outputs": (TensorSpec(name="logits", dtype="float16", shape=(None, 10)),)}, "outputs"),
        ({"config": replace(variant("resnext11_8x4d_digits"), cardinality=4)}, "config"),
        (
            {"package": {"cpu_flags": ()}},
            "package",
        ),  # would let it load, and die, on another processor
        ({"package": {"torch": "2.9.1"}}, "package"),
        ({"package": {"layers": ()}}, "package"),
    ],
)
def test_an_altered_manifest_is_refused(
    changes: dict[str, Any], named: str, weights: Weights, tmp_path: Path, loaders: list[FakeLoader]
) -> None:
    artifact = fake_package(tmp_path, weights)
    manifest = artifact.manifest
    altered = {
        key: getattr(manifest, key).model_copy(update=value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    with pytest.raises(BadArtifact, match=rf"does not agree with the file on {named};"):
        open_session(replace(artifact, manifest=manifest.model_copy(update=altered)), CPU, "pt2")
    assert not loaders
    open_session(artifact, CPU, "pt2").close()  # unaltered, it opens


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[: len(data) // 2], "is no readable .pt2 package"),
        (lambda _: b"", "is no readable .pt2 package"),
        (
            lambda data: data.replace(b"linux", b"LINUX"),
            "is no readable .pt2 package",
        ),  # zip's own checksum
        (lambda data: data.replace(b"extra", b"other"), "is no package of this toolkit"),
        (
            lambda data: data.replace(b"aotinductor", b"aotinducted"),
            "is no package of this toolkit",
        ),
    ],
)
def test_a_damaged_package_is_one_clear_line(
    damage: Callable[[bytes], bytes], told: str, weights: Weights, tmp_path: Path
) -> None:
    path = fake_package(tmp_path, weights, record_here(weights, platform="linux-x86_64")).path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadArtifact, match=told) as caught:
        read_package(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", '{"torch": "2.13.0", "future": 1}'])
def test_a_record_of_another_form_is_one_clear_line(
    text: str, weights: Weights, tmp_path: Path
) -> None:
    write_package(tmp_path / "model.pt2", text, facts_of(weights))
    with pytest.raises(BadArtifact, match="a record that this version cannot read"):
        read_package(tmp_path / "model.pt2")


def test_a_library_that_is_none_is_one_clear_line(weights: Weights, tmp_path: Path) -> None:
    artifact = fake_package(tmp_path, weights)
    with pytest.raises(BadArtifact, match=r"PyTorch cannot load .*model\.pt2: ") as caught:
        open_session(artifact, CPU, "pt2")
    assert len(str(caught.value).splitlines()) == 1
