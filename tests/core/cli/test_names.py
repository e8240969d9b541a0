"""Names are bytes: whatever a path is called, it works, or it is refused before the work."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from commands import COMMANDS
from fakes.ceilings import plant
from fakes.workshop import FakeConfirmer
from resnext.artifact.files import read_artifact
from resnext.artifact.manifest import read_manifest
from resnext.errors import BadInput
from resnext.images.preprocessing import default_preprocessing
from resnext.images.sources import image_source
from resnext.weights.shipped import SHIPPED
from resnext_bench.fleet.plan_file import make_plan
from resnext_bench.fleet.results import Results
from resnext_export import export
from resnext_export.triton.repository import write_repository

STORED = Path(__file__).parents[3] / "benchmarks" / "results"
#: Names that a file can have, and that work wherever a path is accepted.
USABLE = {
    "spaces": "  a  b ",
    "quotes": "'a\"b`c`",
    "newline": "a\nb",
    "tab": "a\tb\r",
    "leading dash": "-a",
    "double dash": "--json",
    "percent": "%s%d%20{0}{name}",
    "shell": "$(touch pwned)`touch pwned`;&|<>*?[a-z]!#",
    "backslash": "a\\n\\",
    "emoji": "\N{FACE WITH TEARS OF JOY}\N{WOMAN}\u200d\N{GIRL}",
    "combining": "e\u0301\u0327\u202ea",
    "colon and comma": "a:b,c;d=e",
    "trailing dot": "a.",
    "trailing space": "a ",
    "markup": "[bold]a[/bold]:smile:[/dim]",
    "control": "a\x1b[31m\x07\x7f",
    "tilde": "~nobody-of-that-name",
    "255 bytes": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 117 + "abcdefghi",
}
#: All of it at once.
EVERYTHING = (
    "- 'q\"\n\t%s{0}$(touch pwned)`;*?[b]\\e\u0301\u202e\N{FACE WITH TEARS OF JOY}:,=\x1b[31m~. "
)
#: Names that no command can use.
LATIN_1 = os.fsdecode(b"caf\xe9")
UNUSABLE = {
    "latin-1": LATIN_1,
    "latin-1 folder": f"{LATIN_1}/a",
    "too long": "x" * 256,
    "long path": "y/" * 2100 + "z",
    "long parts": f"{'x' * 200}/" * 30 + "z",
}


@dataclass(frozen=True)
class Use:
    """One place where a path enters a command.

    Attributes:
        words: of the command; ``{}`` is the path, ``{artifact}`` and the like what it also needs.
        there: what is at the path beforehand, as `Things` calls it; "" for an output.
        suffix: of the path.
        codes: exit codes with a usable name: 0, or what is said of a machine without a GPU.
        slow: left to the exhaustive tests.
    """

    words: str
    there: str = ""
    suffix: str = ""
    codes: tuple[int, ...] = (0,)
    slow: bool = False


PARITY = "--artifact={artifact} --images=2 "
BENCH = "--backend=ort-cpu --duration=0.01 --warmup=0 --rounds=1 --samples=1 "
HALVE = "--format=onnx --onnx={artifact} --precision=fp16 --no-check "
PLAN = "--backend=ort-cpu --output=made "
LENS = "--backend=ort-cpu "
TUNE = "--backend=ort-cpu --precision=fp32 --accuracy-images=50 "
#: Every path of every command.
USES = {
    "resnext.cli.parity": {
        "artifact": Use("--artifact={} --images=2", "artifact"),
        "spec": Use(PARITY + "--weights={}", "weights", ".safetensors"),
        "images_from": Use(PARITY + "--images-from={}", "pictures"),
        "json_path": Use(PARITY + "--json={}"),
        "junit_path": Use(PARITY + "--junit={}"),
        "pixels": Use("--artifact={kit} --pixels={}", "pixels"),
        "output": Use("--artifact={half} --images=2 --bisect --output={}"),
        "trust": Use("--artifact={signed} --images=2 --require-signature --trust={}", "public"),
    },
    "resnext.cli.parity verify": {
        "path": Use("-- {}", "judged"),
        "json_path": Use("{judged} --json={}"),
        "trust": Use("{signed} --require-signature --trust={}", "public"),
    },
    "resnext.cli.batch": {
        "source": Use("--artifact={artifact} --output=made -- {}", "pictures"),
        "artifact": Use("{pictures} --output=made --artifact={}", "artifact"),
        "output": Use("{pictures} --artifact={artifact} --output={}"),
        "trust": Use(
            "{pictures} --artifact={signed} --output=made --require-signature --trust={}", "public"
        ),
    },
    "resnext.cli.classify": {
        "images": Use("--weights=digits -- {}", "picture", ".png"),
        "artifact": Use("--artifact={} {picture}", "artifact"),
        "spec": Use("--weights={} {picture}", "weights", ".safetensors"),
        "json_path": Use("--weights=digits {picture} --json={}"),
        "preprocessing": Use("--weights=digits {picture} --preprocessing={}", "manifest"),
        "trust": Use("--artifact={signed} --require-signature --trust={} {picture}", "public"),
    },
    "resnext_export.cli.export": {
        "weights": Use(
            "--format=onnx --no-check --output=made --weights={}", "weights", ".safetensors"
        ),
        "preprocessing": Use(
            "--format=onnx --weights=digits --no-check --output=made --preprocessing={}",
            "manifest",
            slow=True,
        ),
        "onnx": Use(
            "--format=onnx --precision=fp16 --no-check --output=made --onnx={}", "artifact"
        ),
        "calibration": Use(
            "--format=onnx --onnx={artifact} --precision=int8 --calibration-images=2 --no-check"
            " --output=made --calibration={}",
            "pictures",
        ),
        "timing_cache": Use(
            "--format=trt --onnx={artifact} --output=made --timing-cache={}", codes=(2, 3)
        ),
        "artifact": Use("--format=triton --output=made --artifact={}", "artifact"),
        "output": Use(HALVE + "--output={}"),
        "json_path": Use(HALVE + "--output=made --json={}"),
        "sbom_path": Use(HALVE + "--output=made --sbom={}"),
    },
    "resnext_export.cli.export check-triton": {
        "repository": Use("--server=off -- {}", "repository"),
        "json_path": Use("{repository} --server=off --json={}"),
    },
    "resnext_export.cli.export doctor": {
        "json_path": Use("--json={}", codes=(0, 1, 3), slow=True),
    },
    "resnext_export.cli.export verify": {
        "path": Use("--key={public} -- {}", "signed"),
        "key": Use("{signed} --key={}", "public"),
        "json_path": Use("{signed} --key={public} --json={}"),
    },
    "resnext_export.cli.export sign": {
        "path": Use("--key={private} -- {}", "artifact"),
        "key": Use("{artifact} --key={}", "private"),
        "json_path": Use("{artifact} --key={private} --json={}"),
    },
    "resnext_export.cli.export refit": {
        "path": Use("--output=made -- {}", "artifact", codes=(2,)),  # no engine to refit
        "spec": Use("{artifact} --output=made --weights={}", "weights", ".pth", codes=(2,)),
        "output": Use("{artifact} --output={}", codes=(2,)),
    },
    "resnext_export.cli.export rebuild": {
        "path": Use("--no-check --output=made -- {}", "half"),
        "output": Use("{half} --no-check --output={}"),
        "json_path": Use("{half} --no-check --output=made --json={}"),
        "trust": Use(
            "{signed} --no-check --output=made --require-signature --trust={}", "public", slow=True
        ),
    },
    "resnext_export.cli.export explain": {
        "subject": Use("-- {}", "artifact"),
        "history": Use("{artifact} --history={}", "runs"),
        "spec": Use("{artifact} --weights={}", "weights", ".safetensors"),
        "json_path": Use("digits --json={}"),
        "trust": Use("{signed} --require-signature --trust={}", "public"),
    },
    "resnext_export.cli.export inspect": {
        "path": Use("-- {}", "artifact"),
        "json_path": Use("{artifact} --json={}"),
        "sbom_path": Use("{artifact} --sbom={}"),
    },
    "resnext_export.cli.export check-trt": {
        "path": Use("-- {}", "model", ".onnx", slow=True),
        "json_path": Use("{model} --json={}", slow=True),
    },
    "resnext_bench.cli.bench": {
        "artifact": Use(BENCH + "--artifact={}", "artifact", slow=True),
        "spec": Use(BENCH + "--weights={}", "weights", ".safetensors", slow=True),
        "preprocessing": Use(BENCH + "--weights=digits --preprocessing={}", "manifest", slow=True),
        "accuracy": Use(BENCH + "--artifact={artifact} --accuracy={}", "labeled", slow=True),
        "calibration": Use(
            BENCH + "--weights=digits --precision=int8 --calibration-images=2 --calibration={}",
            "pictures",
            slow=True,
        ),
        "json_path": Use(BENCH + "--artifact={artifact} --json={}", slow=True),
        "markdown_path": Use(BENCH + "--artifact={artifact} --markdown={}", slow=True),
        "loadgen_logs": Use(
            BENCH + "--artifact={artifact} --loadgen=single-stream --loadgen-logs={}", slow=True
        ),
        "html_path": Use(BENCH + "--artifact={artifact} --html={}", slow=True),
        "junit_path": Use(BENCH + "--artifact={artifact} --junit={}", slow=True),
        "trust": Use(
            BENCH + "--artifact={signed} --require-signature --trust={}", "public", slow=True
        ),
    },
    "resnext_export.cli.export tune": {
        "spec": Use(
            TUNE + "--accuracy=digits --output=made --weights={}",
            "weights",
            ".safetensors",
            slow=True,
        ),
        "preprocessing": Use(
            TUNE + "--weights=digits --output=made --preprocessing={}", "manifest", slow=True
        ),
        "accuracy": Use(
            TUNE + "--weights=digits --output=made --accuracy-images=10 --accuracy={}",
            "labeled",
            codes=(0, 1),  # the pictures are none
            slow=True,
        ),
        "calibration": Use(
            TUNE + "--weights=digits --output=made --precision=fp32,int8 --calibration={}",
            "many pictures",
            codes=(0, 1),
            slow=True,
        ),
        "output": Use(TUNE + "--weights=digits --output={}", slow=True),
        "json_path": Use(TUNE + "--weights=digits --output=made --json={}", slow=True),
    },
    "resnext_bench.cli.bench limits": {"json_path": Use("--json={}", slow=True)},
    "resnext_bench.cli.bench lens": {
        "artifact": Use(LENS + "-- {}", "artifact", slow=True),
        "calibration": Use(
            LENS + "--weights=digits --precision=int8 --calibration={}",
            "many pictures",
            slow=True,
        ),
        "spec": Use(LENS + "--weights={}", "weights", ".safetensors", slow=True),
        "json_path": Use(LENS + "{artifact} --json={}", slow=True),
        "trust": Use(LENS + "{signed} --require-signature --trust={}", "public", slow=True),
    },
    "resnext_bench.cli.bench crosscheck": {
        "artifact": Use("--duration=1 -- {}", "artifact", slow=True),
        "json_path": Use("--duration=1 {artifact} --json={}", slow=True),
        "trust": Use("--duration=1 {signed} --require-signature --trust={}", "public", slow=True),
    },
    "resnext_bench.cli.bench plan": {
        "artifact": Use(PLAN + "--artifact={}", "artifact"),
        "spec": Use(PLAN + "--weights={}", "weights", ".safetensors"),
        "preprocessing": Use(PLAN + "--weights=digits --preprocessing={}", "manifest"),
        "accuracy": Use(PLAN + "--weights=digits --accuracy={}", "labeled"),
        "calibration": Use(PLAN + "--weights=digits --calibration={}", "pictures"),
        "trust": Use(PLAN + "--artifact={signed} --require-signature --trust={}", "public"),
        "output": Use("--backend=ort-cpu --weights=digits --output={}"),
    },
    "resnext_bench.cli.bench run-cells": {
        "plan": Use("--into=made -- {}", "plan"),
        "into": Use("{plan} --into={}"),
    },
    "resnext_bench.cli.bench merge": {
        "results": Use("-- {}", "results"),
        "json_path": Use("{results} --json={}"),
        "markdown_path": Use("{results} --markdown={}"),
        "html_path": Use("{results} --html={}"),
        "junit_path": Use("{results} --junit={}"),
    },
    "resnext_bench.cli.bench page": {
        "run": Use("--html=/dev/null -- {}", "run"),
        "html_path": Use("{run} --html={}"),
    },
    "resnext_bench.cli.bench compare": {
        "base": Use("-- {} {run}", "run"),
        "new": Use("-- {run} {}", "run"),
        "json_path": Use("{run} {run} --json={}"),
        "markdown_path": Use("{run} {run} --markdown={}"),
        "junit_path": Use("{run} {run} --junit={}"),
    },
    "resnext_bench.cli.bench history": {
        "folder": Use("-- {}", "runs"),
        "imported": Use("made --import={}", "run"),
        "json_path": Use("{runs} --json={}"),
        "html_path": Use("{runs} --html={}"),
    },
    "resnext_bench.cli.bench history gate": {
        "folder": Use("-- {}", "runs"),
        "json_path": Use("{runs} --json={}"),
        "junit_path": Use("{runs} --junit={}"),
    },
    "resnext_bench.cli.bench ab": {
        "a": Use("--rounds=1 --duration=0.01 --warmup=0 -- {} {artifact}", "artifact", slow=True),
        "b": Use("--rounds=1 --duration=0.01 --warmup=0 -- {artifact} {}", "artifact", slow=True),
        "python": Use(  # which has no toolkit in its environment
            "--rounds=1 --duration=0.01 --warmup=0 {artifact} --python={}",
            "python",
            codes=(3,),
            slow=True,
        ),
        "spec": Use(
            "--rounds=1 --duration=0.01 --warmup=0 torch ort-cpu --weights={}",
            "weights",
            ".safetensors",
            slow=True,
        ),
        "json_path": Use(
            "--rounds=1 --duration=0.01 --warmup=0 {artifact} {artifact} --json={}", slow=True
        ),
        "markdown_path": Use(
            "--rounds=1 --duration=0.01 --warmup=0 {artifact} {artifact} --markdown={}", slow=True
        ),
        "junit_path": Use(
            "--rounds=1 --duration=0.01 --warmup=0 {artifact} {artifact} --junit={}", slow=True
        ),
    },
}
EVERY = [(command, name) for command, uses in USES.items() for name in uses]
QUICK = [(command, name) for command, name in EVERY if not USES[command][name].slow]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of everything that a path can lead to, by the name of its kind."""
    folder = tmp_path_factory.mktemp("things")
    made = {"artifact": export("digits", folder / "artifact").directory}
    halve: dict[str, Any] = {"precision": "fp16", "check": False}
    made["half"] = export(made["artifact"], folder / "half", **halve).directory
    made["kit"] = export("digits", folder / "kit", conformance_kit=True, check=False).directory
    with zipfile.ZipFile(made["kit"] / "conformance-kit.zip") as kit:
        made["pixels"] = Path(kit.extract("pixels.npy", folder))
    made["judged"] = Path(shutil.copytree(made["artifact"], folder / "judged"))
    judge = ["--artifact", str(made["judged"]), "--verdict"]
    assert CliRunner().invoke(COMMANDS["resnext.cli.parity"], judge).exit_code == 0
    key = ec.generate_private_key(ec.SECP256R1())
    made["private"], made["public"] = folder / "key.pem", folder / "key.pub"
    made["private"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made["public"].write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    made["signed"] = Path(shutil.copytree(made["judged"], folder / "signed"))
    words = [str(made["signed"]), "--key", str(made["private"])]
    signed = CliRunner().invoke(COMMANDS["resnext_export.cli.export sign"], words)
    assert signed.exit_code == 0, signed.output
    made["repository"] = write_repository(
        read_artifact(made["artifact"]), folder / "repository"
    ).root
    made["weights"] = SHIPPED["digits"].path
    made["model"] = made["artifact"] / "model.onnx"
    made["manifest"] = made["artifact"] / "manifest.json"
    made["run"] = sorted(STORED.glob("*.json"))[0]
    made["runs"] = folder / "runs"
    made["runs"].mkdir()
    shutil.copy(made["run"], made["runs"])
    nothing = Results.begin(folder / "nothing", make_plan([], [], [], each=False))
    made["plan"] = nothing.folder / "plan.json"
    results = Results.begin(folder / "results", make_plan([("batch 1", ())], [], [], each=False))
    made["results"] = results.folder
    valid = sorted(STORED.glob("*xeon*fp32.json"))[0]
    shutil.copy(valid, results.folder / f"{results.plan.groups[0].id}.json")
    made["pictures"], made["labeled"] = folder / "pictures", folder / "labeled"
    made["pictures"].mkdir()
    for digit in range(10):
        (made["labeled"] / str(digit)).mkdir(parents=True)
        picture = Image.fromarray(np.full((8, 8), digit * 20, np.uint8))
        picture.save(made["labeled"] / str(digit) / "a.png")
        picture.save(made["pictures"] / f"{digit}.png")
    made["many pictures"] = folder / "many"
    made["many pictures"].mkdir()
    for index, noise in enumerate(np.random.default_rng(0).integers(0, 256, (128, 8, 8), np.uint8)):
        Image.fromarray(noise).save(made["many pictures"] / f"{index}.png")
    made["picture"] = made["pictures"] / "0.png"
    made["python"] = Path(sys.executable)
    return made


def put(thing: Path, at: Path) -> None:
    """What `things` has, at another path."""
    if thing.is_dir():
        shutil.copytree(thing, at)
    elif os.access(thing, os.X_OK):
        at.symlink_to(thing)  # an interpreter finds its library beside the real one
    else:
        shutil.copy(thing, at)


def left() -> set[str]:
    """What is in the current folder."""
    return {path.name for path in Path.cwd().iterdir()}


def run(command: str, words: list[str]) -> Result:
    return CliRunner().invoke(COMMANDS[command], words, prog_name="command")


def arguments(use: Use, path: str, things: dict[str, Path]) -> list[str]:
    named = {name: str(thing) for name, thing in things.items()}
    return [word.format(path, **named) for word in use.words.split(" ") if word]


@pytest.fixture(autouse=True)
def _elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "cli.export tune" in request.node.name:  # few candidates, and no further processes
        monkeypatch.setattr("resnext_bench.tune.space.merges_of", lambda *_: (None,))
        monkeypatch.setattr("resnext_bench.tune.api.FreshProcesses", lambda *_: FakeConfirmer())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("RESNEXT_CACHE_DIR", str(tmp_path / "cache"))
    plant(monkeypatch)  # measuring takes ten seconds each time


def expect_success(command: str, parameter: str, name: str, things: dict[str, Path]) -> None:
    use = USES[command][parameter]
    # a folder or file that the command leaves besides the path
    kept = {"made", "made.tune.json"} if "made" in use.words else set()
    name = name.encode()[: 255 - len(use.suffix)].decode(errors="ignore") + use.suffix
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if use.there:
        put(things[use.there], Path(name))
    thing = dict(things)
    if command.endswith("sign") and parameter != "path":  # the artifact is changed
        thing["artifact"] = Path(shutil.copytree(things["artifact"], "made"))
        kept = {"made"}
    done = run(command, arguments(use, name, thing))
    # times as short as these are seldom valid, and a verdict on them is not to be had
    codes = {*use.codes, 1} if "resnext_bench" in command and use.slow else use.codes
    assert done.exit_code in codes, (done.output, done.exception)
    if done.exit_code < 2 and not use.there:
        assert os.path.lexists(name)
    assert left() - kept <= {Path(name).parts[0]}
    for line in (done.stdout + done.stderr).split("\n"):
        assert line.isprintable(), line


def expect_refusal(command: str, parameter: str, name: str, things: dict[str, Path]) -> None:
    use = USES[command][parameter]
    done = run(command, arguments(use, name + use.suffix, things))
    codes = {4} if LATIN_1 in name else {2, 4}
    assert done.exit_code in codes, (done.exit_code, done.output, done.exception)
    *before, line = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: "), line
    assert line.isprintable(), line
    if LATIN_1 in name:
        assert (before, done.stdout) == ([], "")
    assert left() == set()


# ---- every path of every command


@pytest.mark.parametrize(("command", "parameter"), QUICK)
def test_a_path_may_have_any_character(
    command: str, parameter: str, things: dict[str, Path]
) -> None:
    expect_success(command, parameter, EVERYTHING, things)


@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_a_path_that_is_not_utf_8_is_refused_before_the_work(
    command: str, parameter: str, things: dict[str, Path]
) -> None:
    expect_refusal(command, parameter, LATIN_1, things)


@pytest.mark.parametrize(("command", "parameter"), QUICK)
def test_a_path_that_no_file_can_have_is_refused(
    command: str, parameter: str, things: dict[str, Path]
) -> None:
    expect_refusal(command, parameter, UNUSABLE["too long"], things)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [*USABLE, "everything"])
@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_each_kind_of_name_works_everywhere(
    command: str, parameter: str, name: str, things: dict[str, Path]
) -> None:
    expect_success(command, parameter, (USABLE | {"everything": EVERYTHING})[name], things)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_each_kind_of_unusable_name_is_refused_everywhere(
    command: str, parameter: str, name: str, things: dict[str, Path]
) -> None:
    expect_refusal(command, parameter, UNUSABLE[name], things)


def path_parameters() -> Iterator[tuple[str, str]]:
    """Every parameter that is a path, by its type or by how the help calls its value."""
    paths = {"PATH", "DIR", "FOLDER", "FILE", "SPEC"}
    for name, command in COMMANDS.items():
        for parameter in command.get_params(click.Context(command)):
            text = str(parameter.metavar or "")
            if isinstance(parameter.type, click.Path | click.File) or any(
                word in text.replace("|", " ").split() for word in paths
            ):
                yield name, str(parameter.name)


def test_every_path_of_every_command_is_in_the_table() -> None:
    assert set(path_parameters()) <= {*EVERY}
    for command, parameter in EVERY:
        declared = {
            each.name for each in COMMANDS[command].get_params(click.Context(COMMANDS[command]))
        }
        assert parameter in declared


# ---- where else names come from: the folder, the environment, links, folders of pictures

CAFE = b"caf\xe9"
SMALL = ["--weights", "digits", "--format", "onnx", "--output", "made"]


def process(
    words: list[str | bytes], *, module: str = "resnext_export.cli.export", **changes: str | bytes
) -> subprocess.CompletedProcess[bytes]:
    environment = os.environb | {key.encode(): os.fsencode(value) for key, value in changes.items()}
    command: list[str | bytes] = [sys.executable, "-m", module, *words]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    "locale",
    ["C", *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("C.UTF-8", "POSIX"))],
)
def test_a_real_process_takes_and_refuses_the_same(locale: str, things: dict[str, Path]) -> None:
    """`inspect` needs no PyTorch, so that this is quick."""
    name = EVERYTHING.replace("\x1b", "")
    words = ["inspect", str(things["artifact"]), "--no-layers", f"--json={name}"]
    done = process([*words], LC_ALL=locale)
    assert done.returncode == 0, done.stderr
    assert left() == {name}
    done = process([*words[:-1], b"--json=" + CAFE], LC_ALL=locale)
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: the value of --json is not UTF-8: caf\\udce9; ")
    assert left() == {name}


def test_a_locale_without_utf_8_is_no_way_around(things: dict[str, Path]) -> None:
    """Python decodes arguments as ASCII then: even UTF-8 cannot be told apart from other bytes."""
    words: list[str | bytes] = ["inspect", str(things["artifact"])]
    words += ["--no-layers", "--json=caf\u00e9".encode()]
    done = process(words, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 4
    assert done.stderr.startswith(b"error: the value of --json is not UTF-8: caf")
    assert left() == set()


@pytest.mark.parametrize("where", ["folder", "RESNEXT_CACHE_DIR", "TMPDIR", "HOME"])
def test_folders_that_are_not_utf_8_are_refused_or_work(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / LATIN_1
    folder.mkdir()
    if where == "folder":
        monkeypatch.chdir(folder)
    else:
        monkeypatch.setenv(where, str(folder))
    if where == "HOME":
        monkeypatch.delenv("RESNEXT_CACHE_DIR")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    words = [*SMALL, "--precision", "fp16"]  # which uses the cache
    done = run("resnext_export.cli.export", words)
    assert done.exit_code == 4, done.output
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert "is not UTF-8: " in line
    assert left() == set()


def test_a_link_may_not_lead_out_of_utf_8(tmp_path: Path, things: dict[str, Path]) -> None:
    real = tmp_path / f"{LATIN_1}.safetensors"
    shutil.copy(things["weights"], real)
    Path("link.safetensors").symlink_to(real)
    words = ["--format", "onnx", "--no-check", "--output", "made", "--weights", "link.safetensors"]
    done = run("resnext_export.cli.export", words)
    assert done.exit_code in (0, 4), done.output
    if done.exit_code == 0:
        read_manifest(Path("made/manifest.json"))
    else:
        assert left() == {"link.safetensors"}


def test_python_callers_get_the_same_refusals(tmp_path: Path, things: dict[str, Path]) -> None:
    shutil.copy(things["weights"], tmp_path / f"{LATIN_1}.safetensors")
    shutil.copytree(things["artifact"], tmp_path / LATIN_1)
    calls: tuple[tuple[str | Path, str, dict[str, Any]], ...] = (
        (str(tmp_path / f"{LATIN_1}.safetensors"), "made", {}),
        ("digits", LATIN_1, {}),
        (tmp_path / LATIN_1, "made", {"precision": "fp16"}),
        ("digits", "made", {"precision": "int8", "calibration": str(tmp_path / LATIN_1)}),
    )
    for source, output, fields in calls:
        with pytest.raises(BadInput, match="is not UTF-8"):
            export(source, output, check=False, **fields)
    assert left() == set()


def test_pictures_may_have_any_name_and_classes_must_be_utf_8(
    tmp_path: Path, things: dict[str, Path]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, name in enumerate((LATIN_1, *USABLE.values())):
        picture = things["pictures"] / f"{index % 10}.png"
        shutil.copy(picture, pictures / f"{name.replace('/', ' ')[:100]}.png")
    words = f"{PARITY} --images=30 --images-from={{}}".split()
    named = {name: str(thing) for name, thing in things.items()}
    done = run("resnext.cli.parity", [word.format(pictures, **named) for word in words])
    assert done.exit_code == 0, done.output
    labeled = tmp_path / "labeled"
    shutil.copytree(things["labeled"], labeled)
    (labeled / "0").rename(labeled / LATIN_1)
    done = run("resnext.cli.parity", [word.format(labeled, **named) for word in words])
    assert done.exit_code == 4, done.output
    assert "the name of a folder in" in done.stderr
    assert done.stderr.strip().isprintable()


def test_the_digest_of_pictures_is_that_of_their_names_and_bytes(things: dict[str, Path]) -> None:

    preprocessing = default_preprocessing(SHIPPED["digits"].config)
    source = image_source(str(things["pictures"]), preprocessing, split="calibration")
    digest = hashlib.sha256()
    for path in sorted(things["pictures"].iterdir()):
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    assert source.digest == digest.hexdigest()
