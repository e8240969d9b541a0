"""The real compiler behind ``resnext-export --format pt2``, once, and every command on what it
wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from torch._inductor import config as inductor

from resnext.artifact.files import Artifact, read_artifact
from resnext.cli import classify
from resnext.cli import parity as parity_command
from resnext.images.synthetic import seeded_pixels
from resnext.readers.files import file_sha256
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare
from resnext.weights.spec import Weights
from resnext_export.cli.export import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="packages are made by a C++ compiler"),
]

PICTURE = (
    Path(__file__).parents[3] / "resnext" / "weights" / "shipped" / "images" / "digits" / "7_7.png"
)
BATCH = 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("pt2")
    arguments = [
        "--format",
        "pt2",
        "--weights",
        "digits",
        "--batch",
        str(BATCH),
        "--output",
        str(folder / "out"),
    ]
    # Half of the time would go into the six programs by which Inductor asks the compiler what it
    # can do.
    with inductor.patch("cpp.vec_isa_ok", True):
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "parity    ok: max error" in result.stdout
    assert [path.name for path in folder.iterdir()] == ["out"]
    return read_artifact(folder / "out")


def test_the_passport_and_the_file_say_the_same(exported: Artifact) -> None:
    manifest = exported.manifest
    assert sorted(path.name for path in exported.directory.iterdir()) == [
        "manifest.json",
        "model.pt2",
    ]
    assert (manifest.kind, manifest.opset, str(manifest.batch)) == ("pt2", None, str(BATCH))
    assert manifest.package is not None
    assert manifest.package.frozen
    assert (
        sum(manifest.package.kernels.values()) == len(manifest.package.layers) == 14
    )  # a library kernel for each
    assert manifest.check is not None
    assert (manifest.check.backend, manifest.check.batches) == ("pt2", (BATCH,))
    assert manifest.check.max_error < 5e-6


def test_parity_inspect_and_classify_run_it_without_being_told_how(exported: Artifact) -> None:
    path = str(exported.directory)
    parity = CliRunner().invoke(parity_command.main, ["--artifact", path])
    assert parity.exit_code == 0, parity.output
    assert "on pt2 against float64 PyTorch" in parity.stdout
    classified = CliRunner().invoke(classify.main, [str(PICTURE), "--artifact", path])
    assert "7_7.png: 7 " in classified.stdout
    for more in ((), ("--backend", "pt2")):
        inspected = CliRunner().invoke(
            main,
            [
                "inspect",
                path,
                "--require-loadable",
                "--require-delivered",
                "1",
                "--json",
                "-",
                *more,
            ],
        )
        assert inspected.exit_code == 0, inspected.output
        facts = json.loads(inspected.stdout)
        assert (facts["loadable_here"], facts["delivered_share"], len(facts["delivered"])) == (
            True,
            1,
            14,
        )


def test_changed_weights_are_seen_by_parity_also_under_a_digest_of_their_own(
    exported: Artifact, digits: Weights, tmp_path: Path
) -> None:
    row = digits.state_dict["fc.bias"].numpy()
    data = exported.path.read_bytes()
    assert data.count(row.tobytes()) == 1
    shutil.copytree(exported.directory, tmp_path / "out")
    changed = tmp_path / "out" / exported.path.name
    changed.write_bytes(data.replace(row.tobytes(), row[::-1].tobytes()))
    with zipfile.ZipFile(exported.path) as before:
        (entry,) = [info for info in before.infolist() if row.tobytes() in before.read(info)]
        library = before.read(entry)
    again = zlib.crc32(library.replace(row.tobytes(), row[::-1].tobytes()))
    old, new = (crc.to_bytes(4, "little") for crc in (entry.CRC, again))
    changed.write_bytes(changed.read_bytes().replace(old, new))  # the archive's own checksum
    manifest = tmp_path / "out" / "manifest.json"
    result = CliRunner().invoke(parity_command.main, ["--artifact", str(changed.parent)])
    assert result.exit_code == 4
    assert "does not have the sha256 of its manifest" in result.stderr
    manifest.write_text(
        manifest.read_text().replace(exported.manifest.file_sha256, file_sha256(changed))
    )
    result = CliRunner().invoke(parity_command.main, ["--artifact", str(changed.parent)])
    assert result.exit_code == 1, result.output
    assert "outside the parity gate" in result.stderr


#: A process in which the network's source cannot be imported, nor what would make weights of it or
#: export it.
_WITHOUT_SOURCE = """
import importlib, sys

blocked = (
    "resnext.network.model",
    "resnext.weights.conditioned",
    "resnext_export",
    "torch._inductor.compile_fx",
)
sys.modules.update(dict.fromkeys(blocked))
for name in blocked:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported, so nothing would be proven")

from pathlib import Path
import numpy as np
from resnext.artifact.files import read_artifact
from resnext.runtimes.registry import open_session

with open_session(read_artifact(Path(sys.argv[1])), "pt2") as session:
    logits = session.run({"input": np.load(sys.argv[2])})["logits"]
np.save(sys.argv[3], logits)
"""


def test_it_runs_without_the_networks_source_or_a_compiler_and_leaves_nothing(
    exported: Artifact, digits: Weights, tmp_path: Path
) -> None:
    images = digits.preprocessing.normalize(seeded_pixels(digits.config, BATCH))
    np.save(tmp_path / "images.npy", images)
    for folder in ("tmp", "cwd"):
        (tmp_path / folder).mkdir()
    paths = [str(exported.directory), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PATH": ""}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    command = [sys.executable, "-W", "error", "-c", _WITHOUT_SOURCE, *paths]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path / "cwd", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    outcome = compare(reference_logits(digits, images), np.load(tmp_path / "logits.npy"))
    assert outcome.passed, outcome.failures
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "cwd").iterdir())
