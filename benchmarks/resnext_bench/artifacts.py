"""The artifacts that a benchmark builds, or finds in the cache.

An ONNX artifact serves the engine backends too: engines are built from it. A package is compiled
from the weights, which are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, cast

from resnext.artifact.files import Artifact
from resnext.precision import PRECISIONS, QUANTIZED
from resnext.runtimes.registry import runtime_named
from resnext.verify.held.artifact import check_graph, refuse_other_weights
from resnext.verify.subject import Network
from resnext_export import ExportRequest, Stored, build_or_reuse

from .cases import Candidate
from .plan import Case

if TYPE_CHECKING:
    from resnext.runtimes.trt.library import EngineKind


class Artifacts:
    """Builds each artifact of a run, or finds it in the cache, once.

    Args:
        network: what they are made from: weights, or an ONNX file from elsewhere.
        cases: of the whole run; an engine gets an optimization profile for each of its batch sizes.
        device: requested.
        say: called with one line before each step.

    Attributes:
        network: as above.
        reused: artifacts that came from the cache, as shown to the user.
    """

    def __init__(
        self,
        network: Network,
        cases: Sequence[Case],
        device: Literal["auto", "cpu", "cuda"],
        say: Callable[[str], None],
    ) -> None:
        self.reused: list[str] = []
        self.network = network
        self._cases = cases
        self._device = device
        self._say = say
        self._artifacts: dict[tuple[str, str, str], Artifact] = {}
        self._held: set[str] = set()

    def build(self, case: Case, candidate: Candidate) -> tuple[Artifact, Artifact | None]:
        """Build the artifact of ``case`` from the weights, or from the candidate's ONNX file.

        Returns:
            The artifact, and the ONNX artifact that it is or was built from; None for a package,
            which is not built from one.

        Raises:
            ResnextError: whatever an export raises.
        """
        kind = runtime_named(case.backend).formats[0]
        if kind == "pt2":
            return self._package(case, candidate), None
        graph = candidate.artifact or self._graph(case, candidate)
        return (graph if kind == "onnx" else self._engine(case, candidate, graph)), graph

    def hold(self, artifact: Artifact) -> None:
        """Hold graph and stored weights of ``artifact`` against the network, once.

        Raises:
            BadArtifact: its graph is not that of the network.
            GateFailed: it does not store the network's weights.
        """
        if artifact.manifest.file_sha256 not in self._held:
            if isinstance(self.network, Artifact):
                check_graph(artifact)
            else:
                refuse_other_weights(artifact, self.network)
            self._held.add(artifact.manifest.file_sha256)

    def _package(self, case: Case, candidate: Candidate) -> Artifact:
        def compile_package() -> Stored:
            import torch

            self._say(
                f"compiling the package for batch {case.batch}, or reusing what the cache has"
            )
            cuda = self._device == "cuda" or (self._device == "auto" and torch.cuda.is_available())
            request = ExportRequest(
                format="pt2",
                precision=candidate.precision,
                batch=str(case.batch),
                device="cuda" if cuda else "cpu",
            )
            return build_or_reuse(request, self.network)

        # One for each batch size, so that a row is the same whatever else is measured beside it.
        return self._once((case.candidate, "pt2", str(case.batch)), compile_package)

    def _graph(self, case: Case, candidate: Candidate) -> Artifact:
        quantized, timed = candidate.precision in QUANTIZED, candidate.merge == "auto"
        scheme = runtime_named(case.backend).scheme if quantized or timed else None

        def export_onnx() -> Stored:
            self._say("exporting to ONNX, or reusing what the cache has")
            spec, count = candidate.calibration if quantized else (None, None)
            request = ExportRequest(
                precision=candidate.precision,
                runtime=PRECISIONS[candidate.precision].only_for or scheme,
                calibration=spec,
                calibration_images=count,
                calibration_method=candidate.method,
                merge_groups=candidate.merge,
                # The batch that merged groups are timed at; the artifact takes any size.
                batch=f"1:{case.batch}" if timed else None,
            )
            plain = build_or_reuse(ExportRequest(), self.network)
            if not request.derives:
                return plain
            return build_or_reuse(request, self.network, plain.artifact)

        return self._once((case.candidate, "onnx", _graph_key(case, candidate)), export_onnx)

    def _engine(self, case: Case, candidate: Candidate, graph: Artifact) -> Artifact:
        kind = cast("EngineKind", runtime_named(case.backend).formats[0])

        def build() -> Stored:
            # Kernels are chosen for exactly these sizes.
            sizes = dict.fromkeys(
                other.batch
                for other in self._cases
                if other.candidate == case.candidate
                and runtime_named(other.backend).formats[0] == kind
            )
            self._say("building the engine, or reusing what the cache has")
            request = ExportRequest(format=kind, batch=",".join(map(str, sizes)))
            return build_or_reuse(request, self.network, graph)

        return self._once((case.candidate, kind, _graph_key(case, candidate)), build)

    def _once(self, key: tuple[str, str, str], build: Callable[[], Stored]) -> Artifact:
        if key not in self._artifacts:
            stored = build()
            self._artifacts[key] = artifact = stored.artifact
            if stored.reused:
                self.reused.append(f"{artifact.path} (sha256 {artifact.manifest.file_sha256[:12]})")
        return self._artifacts[key]


def _graph_key(case: Case, candidate: Candidate) -> str:
    """Which graph of its candidate a case needs: only quantized graphs have a scheme for each
    runtime, and only a timed choice of groups depends on runtime and batch.
    """
    scheme = runtime_named(case.backend).scheme
    if candidate.merge == "auto":
        return f"{scheme} {case.batch}"
    return scheme if candidate.precision in QUANTIZED else ""
