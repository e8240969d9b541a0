"""Stored reference logits: the key covers every dependency, and damaged files are recomputed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exported import export_onnx
from resnext.images.synthetic import seeded_pixels
from resnext.storage import cache_folder
from resnext.verify import eager
from resnext.verify.check import check
from resnext.verify.eager import cached_reference_logits
from resnext.weights.spec import Weights, load_weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("digits")


@pytest.fixture(scope="module")
def images(weights: Weights) -> Any:
    return weights.preprocessing.normalize(seeded_pixels(weights.config, 4))


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the model was for; the cache folder is an empty one."""
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    counts: list[int] = []
    real = eager.reference_logits

    def counting(weights: Weights, images: Any, dtype: torch.dtype = torch.float64) -> Any:
        counts.append(len(images))
        return real(weights, images, dtype)

    monkeypatch.setattr(eager, "reference_logits", counting)
    return counts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_kept_is_what_was_computed(
    dtype: torch.dtype, weights: Weights, images: Any, computed: list[int]
) -> None:
    first = cached_reference_logits(weights, images, dtype)
    again = cached_reference_logits(weights, images, dtype)
    assert computed == [4]
    np.testing.assert_array_equal(first, again)
    assert again.dtype == first.dtype == eager.reference_logits(weights, images, dtype).dtype


def test_images_are_kept_one_by_one_whatever_set_they_come_in(
    weights: Weights, images: Any, computed: list[int]
) -> None:
    whole = cached_reference_logits(weights, images[:3], torch.float64)
    some = cached_reference_logits(weights, images[[2, 3, 0]], torch.float64)
    assert computed == [3, 1]
    np.testing.assert_array_equal(some[[0, 2]], whole[[2, 0]])


def other_weights(weights: Weights) -> Weights:
    state = {name: value.clone() for name, value in weights.state_dict.items()}
    state["fc.bias"][0] += 1
    return replace(weights, state_dict=state)


CHANGES: dict[
    str, Callable[[Weights, Any, pytest.MonkeyPatch], tuple[Weights, Any, torch.dtype]]
] = {
    "weights": lambda weights, images, _: (other_weights(weights), images, torch.float64),
    "images": lambda weights, images, _: (weights, images + np.float32(1e-3), torch.float64),
    "dtype": lambda weights, images, _: (weights, images, torch.float32),
    "torch": lambda weights, images, patch: (
        patch.setattr(torch, "__version__", "2.99"),
        (weights, images, torch.float64),
    )[1],
    "threads": lambda weights, images, patch: (
        patch.setattr(torch, "get_num_threads", lambda: 99),
        (weights, images, torch.float64),
    )[1],
    "configuration": lambda weights, images, _: (
        replace(weights, config=replace(weights.config, input_size=(9, 8))),
        images,
        torch.float64,
    ),
    "model's source": lambda weights, images, patch: (
        patch.setattr("inspect.getsource", lambda _: "another"),
        (weights, images, torch.float64),
    )[1],
    "toolkit": lambda weights, images, patch: (
        patch.setattr("resnext.verify.eager.__version__", "0.0"),
        (weights, images, torch.float64),
    )[1],
    "processor's flags": lambda weights, images, patch: (
        patch.setattr("resnext.verify.eager.cpu_flags", lambda: frozenset({"fp16"})),
        (weights, images, torch.float64),
    )[1],
    "processor": lambda weights, images, patch: (
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON"),
        (weights, images, torch.float64),
    )[1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_they_depend_on_computes_them_again(
    change: str, weights: Weights, images: Any, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_reference_logits(weights, images, torch.float64)
    cached_reference_logits(*CHANGES[change](weights, images, monkeypatch))
    assert computed == [4, 4]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "one bit of a logit": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "cut short": lambda data: data[:-8],
    "empty": lambda _: b"",
    "another file": lambda _: b"not an array at all, and long enough to hold a digest",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_computed_again_and_replaced(
    damage: str, weights: Weights, images: Any, computed: list[int], tmp_path: Path
) -> None:
    want = cached_reference_logits(weights, images, torch.float64)
    path = next((tmp_path / "cache" / "references").glob("*/*.npy"))
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    np.testing.assert_allclose(
        cached_reference_logits(weights, images, torch.float64), want, rtol=1e-9
    )
    assert computed == [4, 1]
    cached_reference_logits(weights, images, torch.float64)
    assert computed == [4, 1]


def test_logits_of_another_number_of_classes_are_not_taken(
    weights: Weights, images: Any, computed: list[int], tmp_path: Path
) -> None:
    cached_reference_logits(weights, images, torch.float64)
    path = next((tmp_path / "cache" / "references").glob("*/*.npy"))
    eager._write(path, np.zeros(3))
    cached_reference_logits(weights, images, torch.float64)
    assert computed == [4, 1]


def test_a_cache_folder_that_cannot_be_used_is_no_error(
    weights: Weights,
    images: Any,
    computed: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "file" / "below"))
    for _ in range(2):
        cached_reference_logits(weights, images, torch.float64)
    assert computed == [4, 4]


def test_the_cache_folder_that_is_set_needs_no_platformdirs(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['platformdirs'] = None\n"
        "import os; os.environ['RESNEXT_CACHE_DIR'] = '/somewhere'\n"
        "from resnext.storage import cache_folder; print(cache_folder())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "/somewhere\n"


@pytest.mark.parametrize("whose", ["another image's", "other weights'"])
def test_whole_logits_under_another_name_are_not_believed(
    whose: str, weights: Weights, images: Any, computed: list[int], tmp_path: Path
) -> None:
    want = cached_reference_logits(weights, images[:1], torch.float64)
    (path,) = (tmp_path / "cache" / "references").glob("*/*.npy")
    if whose == "another image's":
        cached_reference_logits(weights, images[1:2], torch.float64)
    else:
        cached_reference_logits(other_weights(weights), images[:1], torch.float64)
    (other,) = (
        found for found in (tmp_path / "cache" / "references").glob("*/*.npy") if found != path
    )
    path.write_bytes(other.read_bytes())
    np.testing.assert_allclose(
        cached_reference_logits(weights, images[:1], torch.float64), want, rtol=1e-9
    )
    assert computed == [1, 1, 1]


def test_a_disk_that_is_full_leaves_nothing_behind(
    weights: Weights,
    images: Any,
    computed: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_self: Path, _to: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cached_reference_logits(weights, images, torch.float64)
    assert computed == [4]
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "planted", [ImportError("no platformdirs"), RuntimeError("no home directory")]
)
def test_where_no_cache_folder_can_be_named_they_are_computed(
    planted: Exception,
    weights: Weights,
    images: Any,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> Path:
        raise planted

    monkeypatch.setattr("resnext.verify.eager.cache_folder", fails)
    for _ in range(2):
        assert len(cached_reference_logits(weights, images, torch.float64)) == 4
    assert computed == [4, 4]


def test_the_suite_keeps_out_of_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cache_folder().is_relative_to(tmp_path_factory.getbasetemp())


def test_a_second_parity_check_of_the_same_images_runs_no_model(
    weights: Weights, computed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = export_onnx(weights, tmp_path / "artifact")
    before = check(artifact, weights=weights, runtime="ort-cpu", batch=4, images=8)
    again = len(computed)
    after = check(artifact, weights=weights, runtime="ort-cpu", batch=4, images=8)
    assert (before.passed, after.max_error, len(computed)) == (True, before.max_error, again)
    # The file's own logits are computed again: stored references let no other file pass.
    monkeypatch.setattr(
        "resnext.runtimes.ort.session.OrtSession.run",
        lambda *_: {"logits": np.zeros((4, 10), "f4")},
    )
    assert not check(artifact, weights=weights, runtime="ort-cpu", batch=4, images=8).passed
