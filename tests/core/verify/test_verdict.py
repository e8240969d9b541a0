"""A verdict holds for the bytes, the runtime and the kind of machine that it was reached on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from resnext import verify_artifact
from resnext.artifact.files import Artifact, read_artifact, seal, staging
from resnext.artifact.manifest import read_manifest
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, GateFailed, MissingRequirement
from resnext.machine.environment import record_packages
from resnext.runtimes.ort.session import OrtSession
from resnext.verify.check import check
from resnext.verify.parity import InputKind, Limit
from resnext.verify.verdict import (
    Verdict,
    check_room,
    judge,
    libraries,
    read_verdict,
    sealed,
    write_verdict,
)

VERDICT = "resnext.verify.verdict"


EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
TINY = str(EARLIER / "tiny.safetensors")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("judged") / "artifact"
    artifact = read_artifact(Path(shutil.copytree(EARLIER / "onnx-fp32", folder)))
    write_verdict(artifact, judge(artifact, weights=TINY, runtime="ort-cpu"))
    return artifact


@pytest.fixture
def copy(judged: Artifact, tmp_path: Path) -> Artifact:
    shutil.copytree(judged.directory, tmp_path / "copy")
    return read_artifact(tmp_path / "copy")


def rewritten(artifact: Artifact, **changes: Any) -> None:
    """Another verdict, sealed as this toolkit would: only comparisons can see what is wrong."""
    verdict = read_verdict(artifact.directory)
    write_verdict(artifact, sealed(verdict.model_copy(update=changes)))


def test_a_verdict_says_what_was_proven_and_of_which_bytes(judged: Artifact) -> None:
    verdict = verify_artifact(judged.directory)
    assert verdict.passed
    assert verdict.parity.rows == 28
    assert verdict.artifact_sha256 == judged.manifest.file_sha256
    assert verdict.weights_sha256 == judged.manifest.weights.sha256
    assert verdict.runtime == "ort-cpu"
    assert verdict.device == "cpu"
    assert list(verdict.libraries) in (["onnxruntime-gpu"], ["onnxruntime"])
    assert verdict.delivered is not None
    assert verdict.delivered.share == pytest.approx(1)
    assert verdict.delivered.missed == ()
    assert verdict.timing is not None
    assert verdict.timing.boundary == "host"
    assert verdict.timing.samples >= 11
    assert verdict.timing.median_ns > 0


def test_the_file_or_the_folder_names_the_artifact(judged: Artifact) -> None:
    assert verify_artifact(judged.path) == verify_artifact(str(judged.directory))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_a_flipped_bit_of_the_file_is_refused(copy: Artifact, at: int) -> None:
    flip(copy.path, at)
    with pytest.raises(BadArtifact, match=r"model\.onnx does not have the sha256 of its manifest"):
        verify_artifact(copy.directory)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"torch": "2.13.0+cpu"', '"torch": "2.12.0+cpu"'),
        ('"opset": 20', '"opset": 21'),
        ('"source": "/checkpoints/tiny', '"source": "/checkpoints/other'),
        ("\n}\n", "\n}"),
    ],
)
def test_an_edited_manifest_is_refused(copy: Artifact, old: str, new: str) -> None:
    path = copy.directory / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(BadArtifact, match=r"about other bytes: sha256 of .*manifest\.json"):
        verify_artifact(copy.directory)


def test_every_flipped_bit_of_the_verdict_is_refused(copy: Artifact) -> None:
    path = copy.directory / "verdict.json"
    sound = path.read_bytes()
    for at in np.random.default_rng(0).choice(len(sound), 60, replace=False):
        flip(path, int(at))
        with pytest.raises(BadArtifact, match=r"verdict\.json is not valid|was edited"):
            verify_artifact(copy.directory)
        path.write_bytes(sound)
    verify_artifact(copy.directory)


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw.update(passed=False),
        lambda raw: raw["parity"].update(max_error=1e-9),
        lambda raw: raw["environment"].update(cpu="another"),
        lambda raw: raw.update(created="2099-01-01T00:00:00+00:00"),
        lambda raw: raw["delivered"].update(share=0.5),
        lambda raw: raw["timing"].update(median_ns=1),
    ],
)
def test_an_edited_field_of_the_verdict_is_refused(
    copy: Artifact, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = copy.directory / "verdict.json"
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(Verdict.model_validate(raw).to_json())
    with pytest.raises(BadArtifact, match="was edited after it was written"):
        verify_artifact(copy.directory)


@pytest.mark.parametrize("field", ["artifact_sha256", "manifest_sha256", "weights_sha256"])
def test_a_verdict_about_other_bytes_is_refused(copy: Artifact, field: str) -> None:
    rewritten(copy, **{field: "0" * 64})
    with pytest.raises(BadArtifact, match=r"about other bytes.*the verdict's is 000000000000"):
        verify_artifact(copy.directory)


def test_a_comparison_of_another_file_is_refused(copy: Artifact) -> None:
    other = read_verdict(copy.directory).parity.model_copy(update={"artifact_sha256": "1" * 64})
    rewritten(copy, parity=other)
    with pytest.raises(BadArtifact, match="sha256 of the compared file"):
        verify_artifact(copy.directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passed": True, "failures": ("max error",)}, "does not follow from its failures"),
        ({"max_error": 0.5}, "parity passed with a max error of 5.00e-01"),
        ({"max_error": None}, "parity passed without numbers"),
        ({"min_cosine": 0.1}, "parity passed with"),
        ({"gate": "anything"}, "a gate of no known name: anything"),
        (
            {"limits": (Limit(name="top1", actual=0.5, allowed=1, would_pass=0.5, at_least=True),)},
            "limits exceeded: top1",
        ),
        (
            {"inputs": (InputKind(name="zeros", images=1, max_error=2.0, allowed=1.0),)},
            "limits exceeded: zeros",
        ),
        (
            {
                "inputs": (
                    InputKind(name="huge", images=1, max_error=None, allowed=1.0, finite=False),
                )
            },
            "limits exceeded: huge",
        ),
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused(
    copy: Artifact, changes: dict[str, Any], message: str
) -> None:
    rewritten(copy, parity=read_verdict(copy.directory).parity.model_copy(update=changes))
    with pytest.raises(BadArtifact, match=f"contradicts itself.*{message}"):
        verify_artifact(copy.directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"failures": ("row 3",)}, "does not follow from its laws"),
        ({"passed": False}, "does not follow from its laws"),
        ({"artifact_sha256": "1" * 64}, "sha256 of the file in batches"),
        ({"passed": False, "failures": ("row 3",)}, "`passed` does not follow from its parts"),
    ],
)
def test_a_verdict_on_batches_that_contradicts_itself_is_refused(
    copy: Artifact, changes: dict[str, Any], message: str
) -> None:
    rewritten(copy, integrity=read_verdict(copy.directory).integrity.model_copy(update=changes))
    with pytest.raises(BadArtifact, match=message):
        verify_artifact(copy.directory)


def test_a_leak_between_neighbors_fails_the_verdict(
    copy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtSession.run

    def leaking(self: OrtSession, inputs: Any) -> Any:
        [(name, logits)] = real(self, inputs).items()
        return {name: logits + (np.roll(logits, 1, axis=0) if len(logits) > 7 else 0)}

    monkeypatch.setattr(OrtSession, "run", leaking)
    how = ["--artifact", str(copy.directory), "--weights", TINY, "--backend", "ort-cpu"]
    done = CliRunner().invoke(parity, [*how, "--verdict"])
    assert done.exit_code == 1
    assert "error: the rows of a batch are not independent" in done.stderr
    verdict = read_verdict(copy.directory)
    assert (verdict.parity.passed, verdict.integrity.passed, verdict.passed) == (True, False, False)
    with pytest.raises(GateFailed, match="did not pass: "):
        verify_artifact(copy.directory)


def test_a_looser_gate_is_recorded_and_believed(copy: Artifact) -> None:
    write_verdict(copy, judge(copy, weights=TINY, runtime="ort-cpu", gate="loose"))
    assert verify_artifact(copy.directory).parity.gate == "loose"


def test_passed_must_follow_from_its_parts(copy: Artifact) -> None:
    failed = read_verdict(copy.directory).parity.model_copy(
        update={"passed": False, "failures": ("max error 1",)}
    )
    rewritten(copy, parity=failed)
    with pytest.raises(BadArtifact, match="`passed` does not follow from its parts"):
        verify_artifact(copy.directory)
    rewritten(copy, passed=False)
    with pytest.raises(GateFailed, match="did not pass: max error 1"):
        verify_artifact(copy.directory)


def test_a_verdict_that_is_older_than_the_artifact_is_refused(copy: Artifact) -> None:
    rewritten(copy, created="2020-01-01T00:00:00+00:00")
    with pytest.raises(GateFailed, match="older than the artifact"):
        verify_artifact(copy.directory)
    rewritten(copy, created="yesterday")
    with pytest.raises(GateFailed, match="it is of yesterday, older"):
        verify_artifact(copy.directory)


def test_another_version_of_the_runtime_is_refused(
    judged: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = read_verdict(judged.directory).libraries
    monkeypatch.setattr(f"{VERDICT}.record_packages", lambda: {name: "9.9", "torch": "1"})
    with pytest.raises(GateFailed, match=f"{name} was .*, is 9.9"):
        verify_artifact(judged.directory)
    monkeypatch.setattr(f"{VERDICT}.record_packages", dict)
    with pytest.raises(GateFailed, match=f"{name} was .*, is not installed"):
        verify_artifact(judged.directory)


def test_the_libraries_are_those_that_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch", "numpy")
    monkeypatch.setattr(f"{VERDICT}.record_packages", lambda: dict.fromkeys(names, "1"))
    onnx, package, engine = (
        read_manifest(EARLIER / name / "manifest.json")
        for name in ("onnx-fp32", "pt2-fp32", "trt-rtx-fp32")
    )
    assert set(libraries("ort-cpu", onnx)) == {"onnxruntime"}
    assert set(libraries("ort-trt", onnx)) == {"onnxruntime", "tensorrt"}
    assert set(libraries("openvino", onnx)) == {"openvino"}
    assert set(libraries("pt2", package)) == {"torch"}
    assert set(libraries("trt-rtx", engine)) == {"tensorrt_rtx"}


def test_another_library_does_not_matter(judged: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    here = record_packages()
    monkeypatch.setattr(f"{VERDICT}.record_packages", lambda: here | {"torch": "1", "numpy": "1"})
    verify_artifact(judged.directory)


def test_another_cpu_or_gpu_is_refused(copy: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"{VERDICT}.cpu_capability", lambda: "linux-x86_64 avx2")
        with pytest.raises(GateFailed, match=r"reached on .*, this is linux-x86_64 avx2"):
            verify_artifact(copy.directory)
    rewritten(copy, device="cuda:0 NVIDIA H200", capability="NVIDIA H200, compute capability 9.0")
    with pytest.raises(GateFailed, match=r"reached on NVIDIA H200, compute capability 9\.0"):
        verify_artifact(copy.directory)


def test_an_artifact_without_a_verdict_is_refused(copy: Artifact) -> None:
    (copy.directory / "verdict.json").unlink()
    with pytest.raises(BadArtifact, match=r"no verdict\.json.*judge it"):
        verify_artifact(copy.directory)


def test_replacing_an_artifact_drops_its_verdict(copy: Artifact) -> None:
    with staging(copy.directory, force=True) as folder:
        shutil.copy(copy.path, folder)
        seal(folder, copy.manifest)
    assert sorted(path.name for path in copy.directory.iterdir()) == ["manifest.json", "model.onnx"]


def test_the_command_judges_and_verifies(copy: Artifact) -> None:
    (copy.directory / "verdict.json").unlink()
    at = str(copy.directory)
    how = ["--artifact", at, "--backend", "ort-cpu", "--weights", TINY]
    for more, quick in ([], True), (["--batch-integrity"], False):
        done = CliRunner().invoke(parity, [*how, "--verdict", *more])
        assert (done.exit_code, done.stderr) == (0, f"wrote {at}/verdict.json\n")
        assert read_verdict(copy.directory).integrity.quick is quick
        assert f"\nPASS  batch integrity{', the cheap half,' if quick else ''} of " in done.stdout
        assert "of convolution and product FLOPs in the requested precision" in done.stdout
        assert ", boundary host" in done.stdout
    done = CliRunner().invoke(parity, [*how, "--verdict", "--json", "-"])
    assert Verdict.model_validate_json(done.stdout) == read_verdict(copy.directory)
    done = CliRunner().invoke(parity, ["verify", at])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"HOLDS  {at} on ort-cpu (onnxruntime")
    done = CliRunner().invoke(parity, ["verify", at, "--json", "-"])
    assert Verdict.model_validate_json(done.stdout) == read_verdict(copy.directory)
    rewritten(copy, created="2020-01-01T00:00:00+00:00")
    done = CliRunner().invoke(parity, ["verify", at])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "older than the artifact" in done.stderr
    assert "--artifact DIR and --verdict" in done.stderr
    flip(copy.path, -1)
    assert CliRunner().invoke(parity, ["verify", at]).exit_code == 4


def test_a_verdict_is_always_about_float64(copy: Artifact) -> None:
    how = ["--artifact", str(copy.directory), "--reference", "torch-fp32", "--verdict"]
    done = CliRunner().invoke(parity, how)
    assert done.exit_code == 2
    assert done.stderr == "error: a verdict compares with float64; drop --reference or --verdict\n"


def test_a_failed_comparison_is_stored_and_never_believed(
    copy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = check

    def failing(*args: Any, **kwargs: Any) -> Any:
        sound = real(*args, **kwargs)
        return sound.model_copy(update={"passed": False, "failures": ("max error 1",)})

    monkeypatch.setattr(f"{VERDICT}.check", failing)
    done = CliRunner().invoke(
        parity, ["--artifact", str(copy.directory), "--weights", TINY, "--verdict"]
    )
    assert done.exit_code == 1
    with pytest.raises(GateFailed, match="did not pass: max error 1"):
        verify_artifact(copy.directory)


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(
    copy: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(MissingRequirement, match="cannot write to"):
        check_room(copy)
