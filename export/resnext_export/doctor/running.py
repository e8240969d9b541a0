"""In a child process: export the digits network for each runtime, run it, and compare its logits.

The images are the shipped samples, whose names say what they show; the reference is eager PyTorch
in float64, which must recognize every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.errors import ResnextError, first_line
from resnext.machine.environment import record_packages
from resnext.machine.shared_libraries import load_problem
from resnext.runtimes.availability import available
from resnext.runtimes.registry import RUNTIMES, SessionOptions, open_session
from resnext.runtimes.trt.library import LIBRARIES, library_for
from resnext.storage import scratch_folder
from resnext.verify.eager import reference_logits
from resnext.verify.parity import compare
from resnext.weights.shipped import SHIPPED
from resnext.weights.spec import Weights, load_weights
from resnext_export.pipeline import export
from resnext_export.registry import FORMATS

if TYPE_CHECKING:
    from resnext.runtimes.trt.library import EngineKind

NETWORK = "digits"


def answers(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run each runtime of ``names``.

    Yields:
        ``missing``: a finding, if it is not available; ``error``, with ``hint``, if it failed;
        else ``max_error``, relative to the logits' RMS, and ``libraries`` with their versions.
    """
    with scratch_folder() as folder:
        bench = _Bench(folder)
        for name in names:
            if finding := available(name):
                yield {"missing": asdict(finding)}
                continue
            try:
                yield bench.run(name)
            except ResnextError as exc:
                yield {"error": exc.message, "hint": exc.hint}
            except Exception as exc:
                known = load_problem(exc)
                error = f"{type(exc).__name__}: {first_line(exc)}"[:300]
                yield {"error": error, "hint": known.hint if known else ""}


class _Bench:
    """Artifacts of the network, each made once.

    Args:
        folder: for them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Artifact] = {}

    def run(self, name: str) -> dict[str, Any]:
        """One answer of `answers`."""
        reference = reference_logits(self._weights, self._images)
        if reference.argmax(axis=1).tolist() != list(range(len(reference))):
            return {"error": "eager PyTorch does not recognize the shipped images", "hint": ""}
        subject = self._weights if RUNTIMES[name].live else self._artifact(name)
        # Float32, unless that is what the runtime never runs.
        options = SessionOptions(precision=RUNTIMES[name].precisions[0])
        with open_session(subject, name, options=options) as session:
            spec, out = session.inputs[0], session.outputs[0]
            # As a benchmark runs it, so that a session that compiled nothing says so.
            with session.bind({spec.name: spec.cast(self._images)}) as bound:
                bound.enqueue()
                bound.synchronize()
                logits = bound.fetch()[out.name]
        parity = compare(reference, logits, precision=options.precision, dtype=out.dtype)
        if not parity.passed:
            return {"error": f"wrong logits: {parity.failures[0]}", "hint": ""}
        return {"max_error": parity.max_error, "libraries": record_packages()}

    def _artifact(self, name: str) -> Artifact:
        kind = RUNTIMES[name].formats[0]
        if kind in LIBRARIES:
            kind = library_for(cast("EngineKind", kind)).kind
        if kind not in self._made:
            source: Weights | Artifact = self._weights
            if FORMATS[kind].source == "onnx" and kind != "onnx":
                source = self._made.get("onnx") or self._export(source, "onnx")
            self._export(source, kind)
        return self._made[kind]

    def _export(self, source: Weights | Artifact, kind: str) -> Artifact:
        fields: dict[str, Any] = {"format": kind}
        if kind != "onnx":
            fields["batch"] = str(len(self._images))
        self._made[kind] = export(source, self._folder / kind, check=False, **fields)
        return self._made[kind]

    @cached_property
    def _weights(self) -> Weights:
        return load_weights(NETWORK)

    @cached_property
    def _images(self) -> NDArray[np.float32]:
        """The shipped samples, in the order of their classes."""
        load, normalize = self._weights.preprocessing.load, self._weights.preprocessing.normalize
        files = sorted(SHIPPED[NETWORK].images.iterdir())
        return np.concatenate([normalize(load(file)) for file in files])
