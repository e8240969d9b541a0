"""The artifacts that the cases of a benchmark run: named ones, or the cache's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from resnext.artifact.files import Artifact
from resnext.precision import QUANTIZED
from resnext.runtimes.registry import RUNTIMES, check_precision
from resnext_export import ExportRequest, Stored, build_or_reuse

from .cases import Candidate
from .plan import Case

if TYPE_CHECKING:
    from resnext.runtimes.trt.library import EngineKind
    from resnext.weights.spec import Weights


class ArtifactSource:
    """The artifacts that the cases of one candidate run: the candidate's own, or the cache's.

    An ONNX artifact serves the engine backends too: engines are built from it. A package is
    compiled from the weights, which are the same.
    """

    def __init__(
        self,
        weights: Weights,
        candidate: Candidate,
        cases: list[Case],
        reused: list[str],
        say: Callable[[str], None],
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        self.candidate = candidate
        self._weights = weights
        self._cases = cases
        self._reused = reused
        self._say = say
        self._device = device
        self._made: dict[tuple[str, str], Artifact] = {}

    def named(self, backend: str) -> Artifact | None:
        """The candidate's own artifact, if ``backend`` runs that; None if it runs one from the
        cache, or one made now.
        """
        own = self.candidate.artifact
        runs_it = own is not None and (
            RUNTIMES[backend].formats[0] == "onnx" or own.manifest.kind != "onnx"
        )
        return own if runs_it else None

    def get(self, case: Case) -> Artifact:
        """What ``case`` runs."""
        kind = RUNTIMES[case.backend].formats[0]
        if (own := self.named(case.backend)) is not None:
            return own
        if kind == "pt2":
            return self._kept((kind, str(case.batch)), lambda: self._package(case.batch))
        return self._once(kind, _scheme(case.backend), case.batch)

    def onnx(self, case: Case) -> Artifact | None:
        """The ONNX artifact that ``case`` runs or that its engine was built from; None if there is
        only an engine.
        """
        own = self.candidate.artifact
        if own is not None:
            return own if own.manifest.kind == "onnx" else None
        return self._once("onnx", _scheme(case.backend), case.batch)

    def _once(self, kind: str, scheme: str, batch: int) -> Artifact:
        # Only quantized graphs have a scheme for each runtime, and only a trial depends on runtime
        # and batch.
        timed = self.candidate.merge == "auto"
        key = (
            kind,
            f"{scheme} {batch}"
            if timed
            else scheme
            if self.candidate.precision in QUANTIZED
            else "",
        )
        if kind == "onnx":
            return self._kept(key, partial(self._onnx, scheme, batch))
        return self._kept(key, partial(self._engine, cast("EngineKind", kind), scheme, batch))

    def _kept(self, key: tuple[str, str], make: Callable[[], Stored]) -> Artifact:
        if key not in self._made:
            built = make()
            self._made[key] = built.artifact
            if built.reused:
                self._reused.append(
                    f"{built.artifact.path} (sha256 {built.artifact.manifest.file_sha256[:12]})"
                )
        return self._made[key]

    def _package(self, batch: int) -> Stored:
        import torch

        check_precision("pt2", self.candidate.precision)
        # One for each batch size, so that a row is the same whatever else is measured beside it.
        self._say(f"compiling the package for batch {batch}, or reusing what the cache has")
        cuda = self._device == "cuda" or (self._device == "auto" and torch.cuda.is_available())
        request = ExportRequest(
            format="pt2",
            precision=self.candidate.precision,
            batch=str(batch),
            device="cuda" if cuda else "cpu",
        )
        return build_or_reuse(request, self._weights)

    def _onnx(self, scheme: str, batch: int) -> Stored:
        self._say("exporting to ONNX, or reusing what the cache has")
        candidate = self.candidate
        quantized, timed = candidate.precision in QUANTIZED, candidate.merge == "auto"
        spec, images = candidate.calibration if quantized else (None, None)
        request = ExportRequest(
            precision=candidate.precision,
            runtime="trt"
            if candidate.precision == "fp8"
            else scheme
            if quantized or timed
            else None,
            calibration=spec,
            calibration_images=images,
            merge_groups=candidate.merge,
            # The batch that merged groups are timed at; the artifact takes any size.
            batch=f"1:{batch}" if timed else None,
        )
        plain = build_or_reuse(ExportRequest(), self._weights)
        if not request.derives:
            return plain
        return build_or_reuse(request, self._weights, plain.artifact)

    def _engine(self, kind: EngineKind, scheme: str, batch: int) -> Stored:
        # An optimization profile for each batch size that is measured: kernels are chosen for
        # exactly these.
        sizes = dict.fromkeys(
            case.batch for case in self._cases if RUNTIMES[case.backend].formats[0] == kind
        )
        parent = self.candidate.artifact or self._once("onnx", scheme, batch)
        self._say("building the engine, or reusing what the cache has")
        request = ExportRequest(format=kind, batch=",".join(map(str, sizes)))
        return build_or_reuse(request, self._weights, parent)


def _scheme(backend: str) -> str:
    """The runtime whose Q/DQ scheme ``backend`` runs."""
    return "openvino" if backend == "openvino" else "trt" if "trt" in backend else "ort"
