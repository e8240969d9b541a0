"""The artifact cache: built once, reused after, never trusted when damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnext.errors import MissingRequirement
from resnext.storage import write_cached
from resnext.weights.spec import Weights, load_weights
from resnext_export import store
from resnext_export.formats.base import builder_for
from resnext_export.request import ExportRequest
from resnext_export.store import Stored


def build_or_reuse(weights: Weights, folder: Path) -> Stored:
    return store.build_or_reuse(ExportRequest(), weights, folder=folder)


@pytest.fixture(scope="module")
def built(digits: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stored]:
    """A store with one entry, which no test changes, and what building it gave."""
    folder = tmp_path_factory.mktemp("store")
    return folder, build_or_reuse(digits, folder)


@pytest.fixture
def full(built: tuple[Path, Stored], tmp_path: Path) -> Path:
    """A copy of that store."""
    return shutil.copytree(built[0], tmp_path / "store")


def test_the_second_call_reuses_what_the_first_built(
    digits: Weights, built: tuple[Path, Stored]
) -> None:
    folder, first = built
    second = build_or_reuse(digits, folder)
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact.manifest == second.artifact.manifest


def test_the_store_is_ones_own_and_needs_no_signature(
    digits: Weights, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_REQUIRE_SIGNATURE", "1")
    assert build_or_reuse(digits, full).reused


def test_other_weights_get_another_entry(digits: Weights, tmp_path: Path) -> None:
    def entry(weights: Weights) -> Path:
        request = ExportRequest()
        return store.entry_of(
            request, builder_for(request).key(request, weights), weights, tmp_path
        )

    assert entry(digits) != entry(load_weights("seeded:1", digits.config))


def test_another_library_version_gets_another_entry(
    digits: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnext_export.formats import onnx

    def entry() -> Path:
        request = ExportRequest()
        key = builder_for(request).key(request, digits)
        return store.entry_of(request, key, digits, tmp_path)

    before = entry()
    monkeypatch.setattr(onnx, "library_versions", lambda: {"torch": "0.0"})
    assert entry() != before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("cut", marks=pytest.mark.exhaustive),
        "altered",
        pytest.param("no manifest", marks=pytest.mark.exhaustive),
    ],
)
def test_a_damaged_entry_is_built_again_unsigned_as_before(
    digits: Weights, full: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_REQUIRE_SIGNATURE", "1")  # which is for artifacts of others
    good = build_or_reuse(digits, full).artifact
    raw = bytearray(good.path.read_bytes())
    if damage == "cut":
        good.path.write_bytes(raw[:-10])
    elif damage == "altered":
        raw[len(raw) // 2] ^= 1
        good.path.write_bytes(raw)
    else:
        (good.directory / "manifest.json").unlink()
    again = build_or_reuse(digits, full)
    assert not again.reused
    assert again.artifact.manifest.file_sha256 == good.manifest.file_sha256
    assert build_or_reuse(digits, full).reused


@pytest.mark.parametrize("known", [None, pytest.param(b"0" * 64, marks=pytest.mark.exhaustive)])
def test_an_entry_without_its_digest_is_not_opened(
    digits: Weights, full: Path, monkeypatch: pytest.MonkeyPatch, known: bytes | None
) -> None:
    """As an engine of an earlier release: it would be called a stranger's, and then built again."""
    good = build_or_reuse(digits, full).artifact
    digest = good.directory.with_suffix(".sha256")
    digest.unlink() if known is None else write_cached(digest, known)
    opened = []
    monkeypatch.setattr(store, "read_artifact", lambda path, **_: opened.append(path))
    assert not build_or_reuse(digits, full).reused
    assert opened == []


def test_two_processes_at_a_time_build_it_once(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from resnext.weights.spec import load_weights\n"
        "from resnext_export import ExportRequest\n"
        "from resnext_export.store import build_or_reuse\n"
        "weights, folder = load_weights('digits'), Path(sys.argv[1])\n"
        "print(build_or_reuse(ExportRequest(), weights, folder=folder).reused)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(child.communicate(timeout=120)[0].strip() for child in children)
    assert said == ["False", "True"]


def test_a_cache_folder_that_cannot_be_made_is_a_clear_error(
    digits: Weights, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingRequirement, match="RESNEXT_CACHE_DIR"):
        build_or_reuse(digits, tmp_path / "file" / "cache")
