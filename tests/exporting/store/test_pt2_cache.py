"""Packages in the cache: compiled once for a batch size and a machine, never trusted where they
would not load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes.package import FakeLoader, fake_pt2_from_torch
from resnext.artifact.records import PackageRecord
from resnext.errors import GateFailed, UsageError
from resnext.findings import Finding
from resnext.machine.cuda_driver import Driver, Gpu
from resnext.runtimes.pt2.record import this_host
from resnext.weights.spec import Weights, load_model, load_weights
from resnext_export import store
from resnext_export.convert import pt2_from_torch as converter
from resnext_export.formats import pt2
from resnext_export.request import ExportRequest
from resnext_export.store import Stored


def request(batch: int, **fields: Any) -> ExportRequest:
    return ExportRequest(format="pt2", batch=str(batch), **fields)


def pt2_or_reuse(weights: Weights, batch: int, folder: Path, **fields: Any) -> Stored:
    return store.build_or_reuse(request(batch, **fields), weights, folder=folder)


def entry(weights: Weights, batch: int, folder: Path, **fields: Any) -> Path:
    wanted = request(batch, **fields)
    return store.entry_of(wanted, pt2.PackageBuilder().key(wanted, weights), weights, folder)


@pytest.fixture(autouse=True)
def compiled(digits: Weights, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """No compiler; what it would have been asked."""
    asked: list[dict[str, Any]] = []
    model = load_model(digits)

    def compile_fake(weights: Weights, *arguments: Any, **options: Any) -> PackageRecord:
        asked.append(options)
        return fake_pt2_from_torch(weights, *arguments, **options)

    monkeypatch.setattr(converter, "pt2_from_torch", compile_fake)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(model))
    return asked


def test_a_package_is_static_checked_and_compiled_once(
    digits: Weights, tmp_path: Path, compiled: list[dict[str, Any]]
) -> None:
    first, second = pt2_or_reuse(digits, 3, tmp_path), pt2_or_reuse(digits, 3, tmp_path)
    assert (first.reused, second.reused, len(compiled)) == (False, True, 1)
    manifest = second.artifact.manifest
    assert manifest == first.artifact.manifest
    assert (manifest.batch.static, manifest.batch.opt) == (True, 3)
    assert manifest.check is not None


def test_whatever_changes_the_bytes_gets_another_entry(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = this_host()
    seeded = load_weights("seeded:1", digits.config)
    monkeypatch.setattr(
        torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(load_model(digits))
    )
    paths = {
        pt2_or_reuse(digits, 3, tmp_path).artifact.path,
        pt2_or_reuse(digits, 4, tmp_path).artifact.path,
    }
    paths.add(pt2_or_reuse(digits, 3, tmp_path, precision="fp16").artifact.path)
    monkeypatch.setattr(
        torch._C._aoti, "AOTIModelPackageLoader", lambda *_: FakeLoader(load_model(seeded))
    )
    paths.add(pt2_or_reuse(seeded, 3, tmp_path).artifact.path)
    assert len(paths) == 4
    entries: list[Path] = []
    for other in (
        host,
        replace(host, torch="2.14.0"),
        replace(host, cpu_flags=host.cpu_flags | {"avx9000"}),
        replace(host, cpu_capability="AVX9000"),
        replace(host, compute_capability="9.0"),
    ):
        monkeypatch.setattr(pt2, "this_host", lambda other=other: other)
        entries.append(entry(digits, 3, tmp_path))
    entries.append(entry(digits, 3, tmp_path, device="cuda"))
    entries.append(entry(digits, 3, tmp_path, device="cuda", kernels="fused"))
    monkeypatch.setattr(pt2, "versions_of", lambda names: dict.fromkeys(names, "9.0"))
    entries.append(entry(digits, 3, tmp_path, device="cuda", kernels="fused"))
    assert len(set(entries)) == len(entries) == 8


def test_a_package_for_cuda_is_for_the_gpu_that_is_here(
    digits: Weights,
    tmp_path: Path,
    plant_driver: Callable[[Driver], None],
) -> None:
    entries: list[Path] = []
    for name in ("NVIDIA L4", "NVIDIA L4", "NVIDIA L40"):
        plant_driver(Driver(None, 1, "13.0", (Gpu(name, "8.9"),)))
        entries.append(entry(digits, 3, tmp_path, device="cuda"))
    assert entries[0] == entries[1] != entries[2]


def test_an_entry_that_would_not_load_here_is_compiled_again(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[dict[str, Any]]
) -> None:
    pt2_or_reuse(digits, 3, tmp_path)
    monkeypatch.setattr(pt2, "loadable", lambda *_: (Finding("other-processor", "no"),))
    assert not pt2_or_reuse(digits, 3, tmp_path).reused
    assert len(compiled) == 2


@pytest.mark.parametrize("damage", ["cut", "no manifest"])
def test_a_damaged_entry_is_compiled_again(digits: Weights, tmp_path: Path, damage: str) -> None:
    good = pt2_or_reuse(digits, 3, tmp_path).artifact
    if damage == "cut":
        good.path.write_bytes(good.path.read_bytes()[:-10])
    else:
        (good.directory / "manifest.json").unlink()
    assert not pt2_or_reuse(digits, 3, tmp_path).reused
    assert pt2_or_reuse(digits, 3, tmp_path).reused


def test_a_package_that_is_wrong_is_never_kept(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(digits)
    wrong = FakeLoader(lambda images: model(images).roll(1, dims=1))
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", lambda *_: wrong)
    for _ in range(2):
        with pytest.raises(GateFailed, match="does not compute what PyTorch computes"):
            pt2_or_reuse(digits, 3, tmp_path)


def test_what_the_converter_refuses_is_refused(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    other: Any = "int8"
    with pytest.raises(UsageError, match="not in int8"):
        pt2_or_reuse(digits, 3, tmp_path, precision=other)
