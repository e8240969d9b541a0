"""A pytest plugin: parity and batch integrity of artifacts as fixtures.

pytest loads it at every start, so it imports nothing of the toolkit until a fixture is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact
    from resnext.runtimes.session import Session
    from resnext.verify.batches.laws import Integrity
    from resnext.verify.parity import Parity

_OPTIONS = ("artifact", "backend", "weights", "gate", "images_from")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, and the key of the configuration."""
    group = parser.getgroup("resnext", "artifacts of resnext-toolkit")
    group.addoption(
        "--resnext-artifact",
        action="append",
        default=[],
        metavar="PATH",
        help="Folder that resnext-export wrote. May be repeated: tests run once for each.",
    )
    group.addoption(
        "--resnext-backend",
        metavar="NAME",
        help="Runtime that runs the artifacts. Default: each artifact's own.",
    )
    group.addoption(
        "--resnext-weights",
        metavar="SPEC",
        help="Weights that the artifacts were made from, if they moved.",
    )
    group.addoption(
        "--resnext-gate",
        metavar="NAME",
        default="default",
        help="Limits of parity: strict, default or loose.",
    )
    group.addoption(
        "--resnext-images-from",
        metavar="SPEC",
        help="Images to compare: digits, fashion-mnist, or a folder. Default: seeded ones.",
    )
    parser.addini(
        "resnext_artifacts",
        "Artifacts to test without --resnext-artifact; relative to the configuration file.",
        type="paths",
        default=[],
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses an artifact once for each."""
    if "resnext_artifact" not in metafunc.fixturenames:
        return
    config = metafunc.config
    named = [config.invocation_params.dir / path for path in config.getoption("resnext_artifact")]
    paths = named or config.getini("resnext_artifacts")
    metafunc.parametrize(
        "resnext_artifact",
        paths or [None],
        ids=[path.name for path in paths] or ["none"],
        indirect=True,
        scope="session",
    )


@pytest.fixture(scope="session")
def resnext_artifact(request: pytest.FixtureRequest) -> Artifact:
    """The artifact under test; without one the test is an error, because a skipped proof would look
    like a passed one.
    """
    from resnext.artifact.files import read_artifact

    path: Path | None = request.param
    if path is None:
        pytest.fail(
            "no artifact to test: name one with --resnext-artifact PATH, or with resnext_artifacts"
            " in the configuration of pytest",
            pytrace=False,
        )
    with _one_line():
        return read_artifact(path)


@pytest.fixture(scope="session")
def resnext_backend(request: pytest.FixtureRequest, resnext_artifact: Artifact) -> str:
    """The runtime that runs the artifact."""
    from resnext.verify.check import natural_runtime

    with _one_line():
        return request.config.getoption("resnext_backend") or natural_runtime(resnext_artifact)


@pytest.fixture(scope="session")
def resnext_session(resnext_artifact: Artifact, resnext_backend: str) -> Iterator[Session]:
    """An open session of the artifact."""
    from resnext.runtimes.registry import open_session

    with _one_line():
        session = open_session(resnext_artifact, resnext_backend)
    with session:
        yield session


@pytest.fixture(scope="session")
def resnext_parity(
    request: pytest.FixtureRequest, resnext_artifact: Artifact, resnext_backend: str
) -> Parity:
    """The verdict of `resnext.check`."""
    from resnext.verify.check import check

    option = request.config.getoption
    with _one_line():
        return check(
            resnext_artifact,
            weights=option("resnext_weights"),
            runtime=resnext_backend,
            gate=option("resnext_gate"),
            images_from=option("resnext_images_from"),
        )


@pytest.fixture(scope="session")
def resnext_integrity(resnext_artifact: Artifact, resnext_backend: str) -> Integrity:
    """The outcome of `resnext.batch_integrity`."""
    from resnext.verify.batches.integrity import batch_integrity

    with _one_line():
        return batch_integrity(resnext_artifact, runtime=resnext_backend)


@contextmanager
def _one_line() -> Iterator[None]:
    """Report an error of the toolkit in one line, with fields spelled as options of pytest."""
    from resnext.errors import ResnextError

    try:
        yield
    except ResnextError as exc:
        fields = re.compile(f"`({'|'.join(_OPTIONS)})`")
        message = fields.sub(lambda field: f"--resnext-{field[1]}".replace("_", "-"), str(exc))
        raise pytest.fail.Exception(message, pytrace=False) from None
