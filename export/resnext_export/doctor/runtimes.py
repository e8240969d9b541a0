"""Each runtime, by running the shipped digits network on it in a child process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from resnext.findings import Finding
from resnext.machine.compiler import compiler
from resnext.machine.environment import PACKAGES
from resnext.runtimes.registry import LOCAL_RUNTIMES, RUNTIMES
from resnext.storage import scratch_folder

from .child import Died, died_hint
from .facts import Facts
from .observation import Observation, observed, ok, problem
from .requirements import tested_version

#: How long one runtime may take, compilation included, seconds.
TIMEOUT_S = 300.0
#: Findings of `resnext.runtimes.availability` about what is installed and cannot work.
_BROKEN = frozenset({"broken-package", "old-torch", "broken-cuda-toolkit"})


def check_runtimes(facts: Facts) -> Iterator[Observation]:
    """Every runtime of the registry, exported for and run; never more than `TIMEOUT_S` each."""
    # Nothing that an earlier process compiled may stand in for what does not work now.
    with scratch_folder() as cache:
        environ = {
            **facts.environ,
            "RESNEXT_CACHE_DIR": str(cache / "store"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TRITON_CACHE_DIR": str(cache / "triton"),
        }
        module = f"{__package__}.running"
        for name, answer in facts.examine(
            module, list(LOCAL_RUNTIMES), timeout_s=TIMEOUT_S, environ=environ
        ):
            yield _observed(name, answer, facts)


def _observed(name: str, answer: Any, facts: Facts) -> Observation:
    if isinstance(answer, Died):
        package = RUNTIMES[name].package
        tested = tested_version(package)
        pin = f"{package}=={tested}" if tested else package
        return problem("runtime-died", f"{name} {answer}", died_hint(answer, pin))
    if "missing" in answer:
        finding = Finding(**answer["missing"])
        return observed(finding, f"{name}: ", here=_is_broken(finding, facts))
    if "error" in answer:
        return problem("runtime-failed", f"{name}: {answer['error']}", answer["hint"])
    library = " ".join(
        f"{distribution} {str(answer['libraries'][distribution]).partition('-')[0]}"
        for distribution in PACKAGES[RUNTIMES[name].package]
        if distribution in answer["libraries"]
    )
    return ok(f"{name}: right logits, error {answer['max_error']:.1e}; {library}")


def _is_broken(finding: Finding, facts: Facts) -> bool:
    """Whether something that is installed is at fault."""
    if finding.code == "no-ort-cuda":  # a build without CUDA lacks nothing that was installed
        return "CUDAExecutionProvider" in facts.module("onnxruntime").get("providers", ())
    if finding.code == "no-compiler":  # there is one, and it does not work
        return shutil.which(compiler()) is not None
    return finding.code in _BROKEN
