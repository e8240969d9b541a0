"""The pytest plugin, in pytest processes of its own: what it offers, and what it costs."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from resnext.testing import pytest_plugin

pytest_plugins = ["pytester"]

EARLIER = Path(__file__).parents[1] / "data" / "earlier_artifacts"
ROOT = Path(__file__).parents[3]
#: What a user writes.
SUITE = r"""
def test_parity(resnext_parity):
    assert resnext_parity.passed, "\n".join(resnext_parity.failures)

def test_batches(resnext_integrity):
    assert resnext_integrity.passed, "\n".join(resnext_integrity.failures)

def test_session(resnext_session, resnext_artifact, resnext_backend):
    assert resnext_session.backend == resnext_backend
    assert resnext_session.inputs[0].name == resnext_artifact.manifest.inputs[0].name
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other plugins, nor this one a second time if the toolkit is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", pytest_plugin.__name__, *arguments)


#: With "=", as the guide has them: pytest would look for its configuration beside a separate path.
WEIGHTS = f"--resnext-weights={EARLIER / 'tiny.safetensors'}"
ARTIFACT = f"--resnext-artifact={EARLIER / 'onnx-fp32'}"


def test_it_imports_nothing_until_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            heavy = {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "click", "rich"}
            assert heavy & set(sys.modules) == set()
            ours = {name for name in sys.modules if name.split(".")[0] == "resnext"}
            assert ours == {
                "resnext", "resnext.version", "resnext.testing", "resnext.testing.pytest_plugin"
            }
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_artifacts_of_the_configuration_are_tested(pytester: pytest.Pytester) -> None:
    paths = [EARLIER / "onnx-fp32", EARLIER / "onnx-fp16"]
    pytester.makeini("[pytest]\nresnext_artifacts =\n" + "\n".join(f"  {path}" for path in paths))
    pytester.makepyfile(SUITE)
    result = run(pytester, "-v", "--resnext-backend=ort-cpu", WEIGHTS)
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*::test_parity?onnx-fp32? PASSED*"])
    result.stdout.fnmatch_lines(["*::test_batches?onnx-fp16? PASSED*"])


def test_a_wrong_artifact_fails_with_the_reasons(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from resnext.runtimes.ort.session import OrtSession

        real = OrtSession.run

        def swapped(self, inputs):
            return {name: logits[::-1] for name, logits in real(self, inputs).items()}

        OrtSession.run = swapped
        """
    )
    pytester.makepyfile(SUITE)
    result = run(pytester, ARTIFACT, WEIGHTS)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*rows are swapped or repeated*"])
    result.stdout.fnmatch_lines(["*size: batch 2, row 0 has the logits of another image*"])


def test_no_artifact_is_an_error_that_says_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = run(pytester)
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["no artifact to test: name one with --resnext-artifact PATH*"])


def test_an_error_is_one_line_with_options_of_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    result = run(pytester, ARTIFACT, "--resnext-artifact=none")
    result.assert_outcomes(passed=2, errors=4)
    result.stdout.fnmatch_lines(["*name it in --resnext-weights", "no artifact at *none*"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.exhaustive
def test_gate_and_images_are_options_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_parity(resnext_parity):
            assert resnext_parity.gate == "strict"
            assert resnext_parity.inputs[0].name == "digits test"
        """
    )
    gate = "--resnext-gate=strict"
    run(pytester, ARTIFACT, WEIGHTS, gate, "--resnext-images-from=digits").assert_outcomes(passed=1)
    result = run(pytester, ARTIFACT, WEIGHTS, gate, "--resnext-images-from=nowhere")
    result.stdout.fnmatch_lines(["*no folder at nowhere; set --resnext-images-from to digits*"])


def test_the_entry_point_is_the_plugin() -> None:
    lines = (ROOT / "setup.cfg").read_text().partition("pytest11 =\n")[2].splitlines()
    name, _, value = (part.strip() for part in lines[0].partition("="))
    assert EntryPoint(name, value, "pytest11").load() is pytest_plugin
