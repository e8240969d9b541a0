"""Signatures: every changed byte is named, other tools verify them, and the policy has one seam."""

from __future__ import annotations

import base64
import functools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from resnext import Trust, check, open_session, verify_artifact
from resnext.artifact import signature
from resnext.artifact.files import KIT_NAME, Artifact, read_artifact, seal, staging
from resnext.artifact.trust import built_here, current_trust, remember_built, trusting
from resnext.cli.batch import main as batch
from resnext.cli.classify import main as classify
from resnext.cli.parity import main as parity
from resnext.errors import BadArtifact, BadInput, GateFailed, MissingRequirement, UsageError
from resnext.readers.files import file_sha256
from resnext.verify import signed as signed_module
from resnext.verify.signed import sign_artifact, verify_signature
from resnext.verify.verdict import judge, read_verdict, sealed, write_verdict
from resnext_bench import benchmark
from resnext_bench.cli.bench import main as bench
from resnext_export import export
from resnext_export.cli.export import main as exporter
from resnext_export.inspection import inspect_artifact
from resnext_export.pipeline import rebuild
from resnext_export.sbom import sbom

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
PICTURE = Path(__file__).parents[3] / "resnext/weights/shipped/images/digits/0_0.png"


def write_key(folder: Path, name: str, key: Any) -> tuple[Path, Path]:
    """A private key and its public one, PEM."""
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return secret, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key(tmp_path_factory.mktemp("keys"), "k", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_key(tmp_path_factory.mktemp("other"), "o", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("plain") / "artifact"
    artifact = read_artifact(Path(shutil.copytree(EARLIER / "onnx-fp32", folder)))
    weights = str(EARLIER / "tiny.safetensors")
    write_verdict(artifact, judge(artifact, weights=weights, runtime="ort-cpu"))
    return artifact


@pytest.fixture(scope="module")
def signed(
    plain: Artifact, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("signed") / "artifact"
    shutil.copytree(plain.directory, folder)
    return sign_artifact(folder, keys[0])[0]


@pytest.fixture
def copy(signed: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed.directory, tmp_path / "copy"))


def edited(path: Path, edit: Callable[[Any], None]) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def test_a_signed_artifact_is_verified_with_its_verdict(
    signed: Artifact, keys: tuple[Path, Path]
) -> None:
    artifact, verdict = verify_signature(signed.directory, keys[1])
    assert artifact == signed
    assert verdict == read_verdict(signed.directory)
    assert verify_signature(signed.path, keys[1]) == (artifact, verdict)


def model_signing(folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    at = str(folder / "model.sig")
    command = ["verify", "key", str(folder), "--signature", at, "--public_key", str(key)]
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *command],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_of_model_signing_verifies_it_too(
    copy: Path, keys: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    done = model_signing(copy, keys[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert model_signing(copy, other[1]).returncode != 0
    flip(copy / "verdict.json")
    done = model_signing(copy, keys[1])
    assert done.returncode != 0
    assert "Hash mismatch for 'verdict.json'" in done.stderr.replace("\\", "")


def test_the_statement_is_an_in_toto_test_result_about_the_file(signed: Artifact) -> None:
    from google.protobuf.json_format import ParseDict
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2 as result_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    envelope = json.loads((signed.directory / "verdict.intoto.json").read_text())
    stated = json.loads(base64.b64decode(envelope["payload"]))
    pb = ParseDict({**stated, "type": stated["_type"]}, statement_pb2.Statement(), True)
    Statement.copy_from_pb(pb).validate()
    assert stated["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert stated["subject"] == [
        {"name": "model.onnx", "digest": {"sha256": signed.manifest.file_sha256}}
    ]
    predicate = stated["predicate"]
    result = ParseDict(predicate, result_pb2.TestResult(), ignore_unknown_fields=True)
    assert (result.result, list(result.passed_tests)) == ("PASSED", ["parity", "batch-integrity"])
    assert predicate["verdict"] == json.loads((signed.directory / "verdict.json").read_text())


@pytest.mark.parametrize(
    "name", ["model.onnx", "manifest.json", "verdict.json", "verdict.intoto.json"]
)
def test_every_altered_or_missing_file_is_named(
    copy: Path, keys: tuple[Path, Path], name: str
) -> None:
    sound = (copy / name).read_bytes()
    flip(copy / name)
    with pytest.raises(BadArtifact, match=rf"/{name} was altered after it was signed"):
        verify_signature(copy, keys[1])
    (copy / name).unlink()
    with pytest.raises(BadArtifact, match=rf"/{name} is missing"):
        verify_signature(copy, keys[1])
    (copy / name).write_bytes(sound)
    verify_signature(copy, keys[1])


@pytest.mark.parametrize(
    "name", ["model.onnx", "manifest.json", "verdict.json", "verdict.intoto.json", "model.sig"]
)
def test_a_pipe_in_place_of_a_file_is_refused_and_does_not_hang(
    copy: Path, keys: tuple[Path, Path], name: str
) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BadArtifact, match=rf"cannot read .*{name}: it is a pipe"):
        verify_signature(copy, keys[1])
    if name == "verdict.intoto.json":
        return  # for other tools; only `verify_signature` reads it
    with pytest.raises(BadArtifact, match=name):
        verify_artifact(copy, trust=Trust((keys[1],), required=True))


def test_nothing_at_all_is_named(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(BadArtifact, match="no artifact at"):
        verify_signature(tmp_path / "none", keys[1])


def test_a_new_file_is_named(copy: Path, keys: tuple[Path, Path]) -> None:
    (copy / "sub").mkdir()
    (copy / "sub" / "extra.py").touch()
    with pytest.raises(BadArtifact, match=r"sub/extra\.py was added after it was signed"):
        verify_signature(copy, keys[1])
    shutil.rmtree(copy / "sub")
    (copy / "link").symlink_to("model.onnx")
    with pytest.raises(BadArtifact, match=r"/link was added"):
        verify_signature(copy, keys[1])


def test_a_signature_of_another_key_or_none_is_refused(
    copy: Path, keys: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    with pytest.raises(BadArtifact, match="signed by another key than"):
        verify_signature(copy, other[1])
    (copy / "model.sig").unlink()
    with pytest.raises(BadArtifact, match=r"no model\.sig in .*: it is not signed"):
        verify_signature(copy, keys[1])


def payload_edited(envelope: Any, edit: Callable[[Any], None]) -> None:
    stated = json.loads(base64.b64decode(envelope["payload"]))
    edit(stated)
    envelope["payload"] = base64.b64encode(json.dumps(stated).encode()).decode()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda b: payload_edited(b["dsseEnvelope"], lambda _: None), "signed by another key"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "signed by another key"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "its payload is text/plain"),
        (lambda b: b["dsseEnvelope"].update(payload="!"), "not base64"),
        (lambda b: b["dsseEnvelope"].pop("payload"), "is not a signature"),
        (lambda b: b.update(mediaType="x"), "its media type is x"),
        (lambda b: b.update(dsseEnvelope=[]), "is not a signature"),
        # each would be tried with each key, over the whole payload
        (
            lambda b: b["dsseEnvelope"].update(signatures=b["dsseEnvelope"]["signatures"] * 17),
            "it has 17 signatures, at most 16 count",
        ),
    ],
)
def test_a_damaged_signature_is_refused(
    copy: Path, keys: tuple[Path, Path], edit: Callable[[Any], None], message: str
) -> None:
    edited(copy / "model.sig", edit)
    with pytest.raises(BadArtifact, match=message):
        verify_signature(copy, keys[1])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_no_signature(
    copy: Path, keys: tuple[Path, Path], content: bytes
) -> None:
    (copy / "model.sig").write_bytes(content)
    with pytest.raises(BadArtifact, match="is not a signature"):
        verify_signature(copy, keys[1])


def test_any_flipped_bit_of_the_signature_is_refused_in_one_line_or_harmless(
    copy: Path, keys: tuple[Path, Path]
) -> None:
    """Harmless: what no reader uses, as the hint which key it is; the digests stay the same."""
    path = copy / "model.sig"
    sound, refused = path.read_bytes(), 0
    digests = signature.signed_digests(copy, (keys[1],))
    rng = np.random.default_rng(0)
    for at, bit in zip(rng.integers(0, len(sound), 400), rng.integers(0, 8, 400), strict=True):
        data = bytearray(sound)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        message = ""
        try:
            found = signature.signed_digests(copy, (keys[1],))
        except BadArtifact as exc:
            found, message = None, str(exc)
        assert found in (None, digests)
        assert "\n" not in message
        refused += found is None
    assert refused > 300


def resigned(copy: Path, key: Path, edit: Callable[[Any], None]) -> None:
    """Sign another payload with the right key: only what it says can be wrong."""
    bundle = json.loads((copy / "model.sig").read_text())
    payload_edited(bundle["dsseEnvelope"], edit)
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"] = signature.signed_envelope(payload, signature.private_key(key))
    (copy / "model.sig").write_text(json.dumps(bundle))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.update(predicateType="x"), "it states x"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "not sha256"),
        (
            lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
            "names a file twice",
        ),
        (lambda s: s["predicate"]["resources"].pop(0), r"manifest\.json was added"),
    ],
)
def test_a_signature_over_something_else_is_refused(
    copy: Path, keys: tuple[Path, Path], edit: Callable[[Any], None], message: str
) -> None:
    resigned(copy, keys[0], edit)
    with pytest.raises(BadArtifact, match=message):
        verify_signature(copy, keys[1])


def test_a_statement_of_another_key_or_verdict_is_refused(
    plain: Artifact, tmp_path: Path, keys: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    """The folder's signature is sound, so only the statement can be wrong."""
    folder = Path(shutil.copytree(plain.directory, tmp_path / "copy"))
    for key, changes, message in (
        (other[0], {}, "is signed by another key"),
        (keys[0], {"created": "2090-01-01T00:00:00+00:00"}, "states another verdict"),
    ):
        sign_artifact(folder, keys[0])
        path = folder / "verdict.intoto.json"
        stated = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
        stated["predicate"]["verdict"].update(changes)
        envelope = signature.signed_envelope(
            json.dumps(stated).encode(), signature.private_key(key)
        )
        path.write_text(json.dumps(envelope))
        resigned(folder, keys[0], functools.partial(rehash, path=path))
        with pytest.raises(BadArtifact, match=message):
            verify_signature(folder, keys[1])


def rehash(statement: Any, path: Path) -> None:
    """State the digest that a file has now."""
    for each in statement["predicate"]["resources"]:
        if each["name"] == path.name:
            each["digest"] = file_sha256(path)


@pytest.mark.parametrize("kind", ["p384", "rsa", "ed25519", "text", "swapped", "missing"])
def test_other_keys_are_refused_in_one_line(
    kind: str, plain: Artifact, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    made: dict[str, Callable[[], Any]] = {
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    if kind in made:
        secret, public = write_key(tmp_path, kind, made[kind]())
    elif kind == "text":
        secret = public = tmp_path / "text"
        secret.write_text("no key")
    else:
        secret, public = keys[::-1] if kind == "swapped" else (tmp_path / "no", tmp_path / "no")
    for call in (
        lambda: sign_artifact(plain.directory, secret),
        lambda: read_artifact(plain.directory, trust=Trust((public,))),
    ):
        with pytest.raises(BadInput, match=r"P-256|not a \w+ key|cannot read") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (plain.directory / "model.sig").exists()


def test_without_a_verdict_only_the_folder_is_signed(
    plain: Artifact, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    folder = Path(shutil.copytree(plain.directory, tmp_path / "copy"))
    sign_artifact(folder, keys[0])
    for name in ("model.sig", "verdict.json"):
        (folder / name).unlink()
    assert sign_artifact(folder, keys[0])[1] is None
    assert not (folder / "verdict.intoto.json").exists()
    assert verify_signature(folder, keys[1])[1] is None


def test_what_is_not_sound_is_not_signed(
    plain: Artifact, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    folder = Path(shutil.copytree(plain.directory, tmp_path / "copy"))
    verdict = read_verdict(folder)
    artifact = read_artifact(folder)
    failed = verdict.parity.model_copy(update={"passed": False, "failures": ("max error 1",)})
    write_verdict(artifact, sealed(verdict.model_copy(update={"parity": failed, "passed": False})))
    with pytest.raises(GateFailed, match="did not pass"):
        sign_artifact(folder, keys[0])
    write_verdict(artifact, sealed(verdict.model_copy(update={"weights_sha256": "0" * 64})))
    with pytest.raises(BadArtifact, match="other bytes"):
        sign_artifact(folder, keys[0])
    write_verdict(artifact, verdict)
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"besides an artifact: notes\.txt"):
        sign_artifact(folder, keys[0])
    assert not (folder / "model.sig").exists()


def test_a_signed_folder_takes_no_new_verdict(copy: Path) -> None:
    done = run(parity, "--artifact", str(copy), "--verdict")
    assert done.exit_code == 2
    assert "is signed, and a new verdict would break the signature" in done.stderr


def test_replacing_a_signed_artifact_drops_the_signature(copy: Path) -> None:
    artifact = read_artifact(copy)
    with staging(copy, force=True) as folder:
        shutil.copy(artifact.path, folder)
        seal(folder, artifact.manifest)
    assert sorted(path.name for path in copy.iterdir()) == ["manifest.json", "model.onnx"]


def test_a_missing_package_is_named(
    plain: Artifact, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingRequirement, match="pip install 'model-signing"):
        sign_artifact(plain.directory, keys[0])


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_the_commands_sign_and_verify(
    plain: Artifact, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    folder = str(shutil.copytree(plain.directory, tmp_path / "copy"))
    done = run(exporter, "sign", folder, "--key", str(keys[0]))
    assert done.exit_code == 0, done.stderr
    assert "parity    max error" in done.stdout
    done = run(exporter, "verify", folder, "--key", str(keys[1]))
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        f"verified  {folder}, signed by {keys[1]}",
    )
    flip(Path(folder, "model.onnx"))
    done = run(exporter, "verify", folder, "--key", str(keys[1]))
    assert done.exit_code == 4
    assert "model.onnx was altered" in done.stderr


# ---- the policy


#: Every command that reads an artifact, with arguments that are otherwise in order.
READING: dict[str, tuple[click.Command, list[str]]] = {
    "resnext-parity": (parity, ["--artifact", "ARTIFACT"]),
    "resnext-parity bisect": (parity, ["--artifact", "ARTIFACT", "--bisect"]),
    "resnext-parity verify": (parity, ["verify", "ARTIFACT"]),
    "resnext-classify": (classify, [str(PICTURE), "--artifact", "ARTIFACT"]),
    "resnext-batch": (
        batch,
        [str(PICTURE.parent), "--artifact", "ARTIFACT", "--output", "OUT"],
    ),
    "resnext-bench": (bench, ["--backend", "ort-cpu", "--artifact", "ARTIFACT"]),
    "resnext-bench ab": (bench, ["ab", "ARTIFACT", "ort-cpu"]),
    "resnext-bench crosscheck": (bench, ["crosscheck", "ARTIFACT"]),
    "resnext-bench plan": (
        bench,
        ["plan", "--backend", "ort-cpu", "--artifact", "ARTIFACT", "--output", "OUT"],
    ),
    "resnext-bench lens": (bench, ["lens", "ARTIFACT"]),
    "resnext-export": (exporter, ["--format", "openvino", "--onnx", "ARTIFACT", "--output", "OUT"]),
    "resnext-export explain": (exporter, ["explain", "ARTIFACT"]),
    "resnext-export inspect": (exporter, ["inspect", "ARTIFACT"]),
    "resnext-export check-trt": (exporter, ["check-trt", "ARTIFACT"]),
    "resnext-export triton": (
        exporter,
        ["--format", "triton", "--artifact", "ARTIFACT", "--output", "OUT"],
    ),
    "resnext-export rebuild": (exporter, ["rebuild", "ARTIFACT", "--output", "OUT"]),
    "resnext-export refit": (exporter, ["refit", "ARTIFACT", "--output", "OUT"]),
}
#: These are about signatures: they say themselves which key counts.
SIGNING = {"resnext-export sign", "resnext-export verify"}
#: This one reads those in a repository, and a refusal is one of its findings.
FINDING = {"resnext-export check-triton"}
#: These read no artifact.
WITHOUT = {
    "resnext-bench compare",
    "resnext-bench history",
    "resnext-bench limits",
    "resnext-bench merge",
    "resnext-bench page",
    "resnext-bench run-cells",  # the processes that it starts do
    "resnext-export doctor",
    "resnext-export tune",
}

DOORS: dict[str, Callable[[Path, Path], Any]] = {
    "read_artifact": lambda path, _: read_artifact(path),
    "open_session": lambda path, _: open_session(path),
    "check": lambda path, _: check(path),
    "verify_artifact": lambda path, _: verify_artifact(path),
    "inspect_artifact": lambda path, _: inspect_artifact(path),
    "benchmark": lambda path, _: benchmark(path),
    "export": lambda path, out: export(path, out, format="openvino"),
    "rebuild": rebuild,
}


def commands() -> dict[str, click.Command]:
    """Every command and subcommand by what a user types."""
    mains = {
        "resnext-parity": parity,
        "resnext-classify": classify,
        "resnext-batch": batch,
        "resnext-bench": bench,
        "resnext-export": exporter,
    }
    found: dict[str, click.Command] = dict(mains)
    for name, main in mains.items():
        if isinstance(main, click.Group):
            context = click.Context(main)
            for child in main.list_commands(context):
                command = main.get_command(context, child)
                assert command is not None
                found[f"{name} {child}"] = command
    return found


def test_every_command_is_covered() -> None:
    # a search for bad blocks and a repository read an artifact, too, and are options
    options = {"resnext-parity bisect", "resnext-export triton"}
    assert {*READING, *SIGNING, *FINDING, *WITHOUT} == {*commands(), *options}


def test_the_documented_commands_have_the_flags() -> None:
    flags = {
        name
        for name, command in commands().items()
        if {"require_signature", "trust"} <= {parameter.name for parameter in command.params}
    }
    assert flags == {
        "resnext-parity",
        "resnext-parity verify",
        "resnext-classify",
        "resnext-batch",
        "resnext-bench",
        "resnext-bench crosscheck",
        "resnext-bench lens",
        "resnext-export explain",
        "resnext-export rebuild",
    }


@pytest.mark.parametrize("name", READING)
def test_every_command_refuses_an_unsigned_artifact_if_a_signature_is_required(
    name: str, plain: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_REQUIRE_SIGNATURE", "1")
    command, arguments = READING[name]
    places = {"ARTIFACT": str(plain.directory), "OUT": str(tmp_path / "out")}
    done = run(command, *(places.get(each, each) for each in arguments))
    assert done.exit_code == 4
    assert "is not signed by a trusted key, which is required here" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_refusal_says_whether_it_is_unsigned_or_by_another_key(
    plain: Artifact, signed: Artifact, other: tuple[Path, Path]
) -> None:
    def refused(artifact: Artifact, *trust: str) -> str:
        at = str(artifact.directory)
        return run(parity, "--artifact", at, "--require-signature", *trust).stderr

    required = "is not signed by a trusted key, which is required here: "
    assert f"{required}it has no model.sig; sign it first" in refused(plain)
    assert f"{required}no key is trusted; name the public key in --trust" in refused(signed)
    by_other = refused(signed, "--trust", str(other[1]))
    assert f"{required}model.sig is not by {other[1]}; name the public key of" in by_other


@pytest.mark.parametrize("name", DOORS)
def test_every_door_refuses_an_unsigned_artifact_if_a_signature_is_required(
    name: str,
    plain: Artifact,
    signed: Artifact,
    keys: tuple[Path, Path],
    other: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESNEXT_REQUIRE_SIGNATURE", "1")
    with pytest.raises(BadArtifact, match="not signed by a trusted key"):
        DOORS[name](plain.directory, tmp_path / "out")
    monkeypatch.setenv("RESNEXT_TRUST", str(other[1]))
    with pytest.raises(BadArtifact, match="not signed by a trusted key"):
        DOORS[name](signed.directory, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("RESNEXT_TRUST", f"{other[1]}:{keys[1]}")
    if name in ("read_artifact", "open_session", "verify_artifact", "inspect_artifact"):
        DOORS[name](signed.directory, tmp_path / "out")
    if name == "rebuild":
        with pytest.raises(BadArtifact, match="stores no request"):
            rebuild(signed.directory, tmp_path / "out")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_what_a_trusted_key_signed_otherwise_is_refused_even_if_nothing_is_required(
    name: str, copy: Path, keys: tuple[Path, Path]
) -> None:
    """Re-sealed, as a careless tool would: only the signature can tell."""
    path = copy / name
    if name == "manifest.json":
        path.write_text(path.read_text().replace('"opset": 20', '"opset": 21'))
    else:
        flip(path)
        manifest = copy / "manifest.json"
        raw = json.loads(manifest.read_text())
        raw["file_sha256"] = file_sha256(path)
        manifest.write_text(json.dumps(raw))
    read_artifact(copy)
    with pytest.raises(BadArtifact, match="altered after it was signed"):
        read_artifact(copy, trust=Trust((keys[1],)))


def test_a_damaged_file_that_is_made_again_is_not_asked_for_its_signature(
    copy: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the manifest is read, and its signature holds."""
    flip(copy / "model.onnx")
    monkeypatch.setenv("RESNEXT_TRUST", str(keys[1]))
    with pytest.raises(BadArtifact, match="stores no request"):
        rebuild(copy)


def test_a_signature_is_required_of_artifacts_alone(keys: tuple[Path, Path]) -> None:
    for flags in (["--require-signature"], ["--trust", str(keys[1])]):
        done = run(classify, str(PICTURE), "--weights", "digits", *flags)
        assert (done.exit_code, "weights are not signed" in done.stderr) == (2, True)


@pytest.mark.parametrize("fault", ["missing", "altered"])
@pytest.mark.parametrize("name", ["verdict.json", "verdict.intoto.json"])
def test_everything_that_was_signed_must_be_there_still(
    name: str, fault: str, copy: Path, keys: tuple[Path, Path]
) -> None:
    (copy / name).unlink() if fault == "missing" else flip(copy / name)
    with pytest.raises(BadArtifact, match=name.replace(".", r"\.")):
        read_artifact(copy, trust=Trust((keys[1],)))


def test_a_verdict_that_was_replaced_after_signing_is_refused(
    copy: Path, keys: tuple[Path, Path]
) -> None:
    verdict = read_verdict(copy)
    write_verdict(read_artifact(copy), sealed(verdict.model_copy(update={"toolkit": "0.0.1"})))
    verify_artifact(copy)
    with pytest.raises(BadArtifact, match=r"verdict\.json is not the file that .*model\.sig"):
        verify_artifact(copy, trust=Trust((keys[1],)))


def test_the_flags_decide_for_a_whole_command(
    signed: Artifact, plain: Artifact, keys: tuple[Path, Path], other: tuple[Path, Path]
) -> None:
    required = ["--require-signature", "--trust", str(other[1]), "--trust", str(keys[1])]
    for artifact, code in ((signed, 0), (plain, 4)):
        done = run(classify, str(PICTURE), "--artifact", str(artifact.directory), *required)
        assert done.exit_code == code, done.stderr
    assert current_trust() == Trust()


def test_a_policy_inside_another_only_adds(keys: tuple[Path, Path]) -> None:
    with trusting(Trust(required=True)), trusting(Trust((keys[1],))):
        assert current_trust() == Trust((keys[1],), required=True)
    assert current_trust() == Trust()


def test_a_bill_of_materials_in_the_folder_is_signed_along(
    plain: Artifact, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain.directory, tmp_path / "artifact"))
    bill = folder / "model.cdx.json"
    arguments = ["inspect", str(folder), "--no-layers", "--sbom", str(bill)]
    assert CliRunner().invoke(exporter, arguments).exit_code == 0
    sign_artifact(folder, keys[0])
    verify_signature(folder, keys[1])
    flip(bill)
    with pytest.raises(BadArtifact, match=r"model\.cdx\.json was altered after it was signed"):
        verify_signature(folder, keys[1])


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", "of other bytes", "link"])
def test_no_other_file_passes_for_a_bill_of_materials(
    content: str, plain: Artifact, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain.directory, tmp_path / "artifact"))
    bill = sbom(read_artifact(folder))
    other = bill.replace(plain.manifest.file_sha256, "0" * 64)
    (tmp_path / "bill").write_text(bill)
    if content == "link":
        (folder / "model.cdx.json").symlink_to(tmp_path / "bill")
    else:
        text = other if content == "of other bytes" else content
        (folder / "model.cdx.json").write_text(text)
    with pytest.raises(UsageError, match=r"holds other files besides an artifact: model\.cdx"):
        sign_artifact(folder, keys[0])


def test_the_verdict_that_is_returned_is_the_one_that_was_hashed(
    copy: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced by another sound verdict between hashing and reading."""
    verdict = read_verdict(copy)
    later = sealed(verdict.model_copy(update={"created": "2099-01-01T00:00:00+00:00"}))
    monkeypatch.setattr(signed_module, "read_verdict", lambda _: later)
    monkeypatch.setattr(signed_module, "_check_statement", lambda *_: None)
    with pytest.raises(BadArtifact, match=r"verdict\.json was altered after it was signed"):
        verify_signature(copy, keys[1])


def test_both_commands_write_what_is_signed_as_json(
    plain: Artifact, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain.directory, tmp_path / "artifact"))
    inside = str(folder / "report.json")
    arguments = [str(folder), "--key", str(keys[0])]
    refused = CliRunner().invoke(exporter, ["sign", *arguments, "--json", inside])
    assert refused.exit_code == 2
    assert "--json is in the folder that is signed; write it elsewhere" in refused.stderr
    report = tmp_path / "report.json"
    said = CliRunner().invoke(exporter, ["sign", *arguments, "--json", str(report)])
    assert said.stdout.startswith("signed    ")
    arguments[-1] = str(keys[1])
    done = CliRunner().invoke(exporter, ["verify", *arguments, "--json", "-"])
    assert json.loads(done.stdout) == json.loads(report.read_text())
    stored = json.loads(done.stdout)
    assert stored["file_sha256"] == plain.manifest.file_sha256
    assert stored["verdict"]["passed"]


# ---- code


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["pt2-fp32", "trt-rtx-fp32"])
def test_a_strangers_code_is_warned_about_and_ones_own_is_not(
    name: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = read_artifact(EARLIER / name)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "compiled code, neither built on this machine nor signed" in record.getMessage()
    assert (
        "rebuild it here, or name its signer's public key in RESNEXT_TRUST" in record.getMessage()
    )
    caplog.clear()
    remember_built("0" * 64)
    remember_built(artifact.manifest.file_sha256)
    read_artifact(EARLIER / name)
    assert not caplog.records
    shutil.rmtree(cache)
    read_artifact(EARLIER / name)
    assert len(caplog.records) == 1


def test_code_that_a_trusted_key_signed_is_not_warned_about(
    cache: Path, tmp_path: Path, keys: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    del cache
    folder = Path(shutil.copytree(EARLIER / "pt2-fp32", tmp_path / "copy"))
    sign_artifact(folder, keys[0])
    caplog.clear()
    read_artifact(folder, trust=Trust((keys[1],), required=True))
    assert not caplog.records
    read_artifact(folder)
    assert len(caplog.records) == 1


def test_files_that_are_only_parsed_are_not_warned_about(
    plain: Artifact, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_artifact(plain.directory)
    read_artifact(EARLIER / "openvino-fp32")
    assert not caplog.records
    assert not cache.exists()


def test_the_command_line_prints_the_warning_in_one_line(cache: Path) -> None:
    done = run(exporter, "inspect", str(EARLIER / "trt-rtx-fp32"))
    [line] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "model.engine is compiled code" in line
    assert not logging.getLogger("resnext").handlers
    del cache


def test_a_warning_about_an_odd_path_is_one_printable_line(cache: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(EARLIER / "trt-rtx-fp32", tmp_path / "a\n\x1b[2J")
    done = run(exporter, "inspect", str(folder))
    [line] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "a\\n\\x1b[2J/model.engine is compiled code" in line
    del cache


def test_a_cache_that_cannot_be_written_to_only_costs_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    remember_built("0" * 64)
    assert not built_here("0" * 64)


def test_what_was_built_is_noted_once(cache: Path) -> None:
    for digest in ("0" * 64, "1" * 64, "0" * 64):
        remember_built(digest)
    [noted] = cache.iterdir()
    assert noted.read_text().split() == ["0" * 64, "1" * 64]


def test_a_pipe_in_place_of_the_notes_is_neither_read_nor_written(cache: Path) -> None:
    remember_built("0" * 64)
    [noted] = cache.iterdir()
    noted.unlink()
    os.mkfifo(noted)
    remember_built("0" * 64)
    assert not built_here("0" * 64)


def test_a_conformance_kit_is_signed_along_and_its_damage_is_seen(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    artifact = export("digits", tmp_path / "out", conformance_kit=True, check=False)
    sign_artifact(artifact.directory, keys[0])
    verify_signature(artifact.directory, keys[1])
    kit = artifact.directory / KIT_NAME
    kit.write_bytes(kit.read_bytes()[:-1] + b"x")
    with pytest.raises(BadArtifact, match=r"conformance-kit\.zip was altered after it was signed"):
        verify_signature(artifact.directory, keys[1])
    with pytest.raises(BadArtifact, match=r"conformance-kit\.zip is not the file that"):
        read_artifact(artifact.directory, trust=Trust((keys[1],)))
