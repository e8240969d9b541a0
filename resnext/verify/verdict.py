"""The verdict: what was proven of an artifact, bound to its bytes, stored beside them.

Parity, batch integrity, delivered precision and a time go into ``verdict.json``, with the digests
of the file, of the manifest's bytes (and so of every record in it) and of the weights. A later
stage reads it back and believes it only if all of that is still so, on the same runtime and the
same kind of machine.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import statistics
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from resnext.artifact.files import VERDICT_NAME, Artifact, read_artifact
from resnext.artifact.manifest import MANIFEST_NAME, Manifest, Sha256, manifest_sha256
from resnext.artifact.signature import SIGNATURE_NAME
from resnext.artifact.specs import Strict
from resnext.artifact.trust import Trust, check_signed, current_trust
from resnext.errors import BadArtifact, GateFailed, MissingRequirement, UsageError
from resnext.machine.environment import (
    PACKAGES,
    Environment,
    cpu_capability,
    record_environment,
    record_packages,
)
from resnext.machine.machine import this_machine
from resnext.machine.nvml import open_nvml
from resnext.precision import NUMERICS, PRESETS
from resnext.readers.files import MOST_JSON, exists, read_file
from resnext.runtimes.registry import REFERENCE, open_session, runtime_named
from resnext.runtimes.session import Boundary, Session
from resnext.storage import write_whole
from resnext.timing.clock import iterations_for, now_ns, time_device, time_host
from resnext.version import __version__
from resnext.weights.spec import Weights

from .batches.integrity import artifact_integrity
from .batches.laws import Integrity
from .check import ReferenceName, check, natural_runtime
from .delivered import share_of, undelivered
from .inputs import seeded_inputs
from .parity import Parity, gate_of

#: Nanoseconds of the timed runs of a verdict, and their smallest number.
_TIMED_NS, _LEAST_RUNS = 500e6, 11
#: Libraries besides a runtime's own package that compute for it.
_BEHIND = {"ort-trt": "tensorrt", "ort-trt-rtx": "tensorrt_rtx"}


class DeliveredRecord(Strict):
    """The precision that the layers got.

    Attributes:
        share: share (0 to 1) of convolution and product FLOPs in the artifact's precision.
        missed: convolutions and classifier that got another element type, each with that; without
            those that the artifact itself leaves at a wider type.
    """

    share: float = Field(ge=0, le=1.000001)
    missed: tuple[tuple[str, str], ...]


class TimingRecord(Strict):
    """How long one run took, alone on the machine as far as this process knows: an orientation, not
    a benchmark.

    Attributes:
        batch: images in one run.
        boundary: the work that the time encloses.
        median_ns: median time of a run, nanoseconds.
        samples: number of timed runs.
    """

    batch: int = Field(ge=1)
    boundary: Boundary
    median_ns: int = Field(ge=0)
    samples: int = Field(ge=1)


class Verdict(Strict):
    """What was proven of one artifact on one runtime and machine.

    Attributes:
        format_version: version of this format; readers refuse any other.
        created: UTC time, ISO 8601.
        toolkit: version of this toolkit.
        artifact_sha256: digest of the artifact's file.
        manifest_sha256: digest of the manifest's bytes, and so of every record in it: method,
            images, merges, request.
        weights_sha256: digest of the tensors that it was compared with.
        runtime: runtime that ran the file.
        device: device that it ran on, as the runtime reports it.
        capability: what code depends on in that device: platform and vector instructions of a CPU,
            or name and compute capability of a GPU.
        libraries: versions of the libraries that computed, by distribution.
        parity: comparison with float64 PyTorch, or with the ONNX file itself in float64.
        integrity: whether a row depends on its image alone, not on the batch around it.
        delivered: precision of the layers; None if the runtime reports none.
        timing: time of a run; None for the reference evaluator, whose time means nothing.
        environment: machine and software.
        passed: every part passed.
        content_sha256: digest of all other fields, so that an edit is noticed.
    """

    format_version: Literal[1] = 1
    created: str
    toolkit: str
    artifact_sha256: Sha256
    manifest_sha256: Sha256
    weights_sha256: Sha256
    runtime: str
    device: str
    capability: str
    libraries: dict[str, str]
    parity: Parity
    integrity: Integrity
    delivered: DeliveredRecord | None
    timing: TimingRecord | None
    environment: Environment
    passed: bool
    content_sha256: Sha256

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=2) + "\n"


def judge(
    artifact: Artifact,
    *,
    weights: Weights | str | None = None,
    runtime: str | None = None,
    batch: int | None = None,
    images: int = 28,
    seed: int = 0,
    images_from: str | None = None,
    gate: str = "default",
    reference: ReferenceName | None = None,
    quick: bool = True,
) -> Verdict:
    """Check ``artifact``, and record everything that the outcome holds for.

    Args:
        artifact: what to judge.
        weights: as `check`.
        runtime: as `check`.
        batch: as `check`.
        images: as `check`.
        seed: as `check`.
        images_from: as `check`.
        gate: as `check`.
        reference: as `check`; not ``torch-fp32``.
        quick: examine only the cheap half of batch integrity (`batch_integrity`).

    Raises:
        ResnextError: as `check`; a `UsageError` for a served model, of which nobody sees the bytes.
    """
    manifest, runtime = artifact.manifest, runtime or natural_runtime(artifact)
    if runtime_named(runtime).served:
        raise UsageError(
            "a verdict is about the bytes of the artifact's file, and a server may run others",
            hint="drop `verdict`, or judge it on a runtime of this machine",
        )
    parity = check(
        artifact,
        weights=weights,
        runtime=runtime,
        batch=batch,
        images=images,
        seed=seed,
        images_from=images_from,
        gate=gate,
        reference=reference,
    )
    size = batch or (manifest.batch.opt if manifest.takes(manifest.batch.opt) else None)
    with open_session(artifact, runtime) as session:
        timing = None if runtime == REFERENCE else _timed(session, manifest, size, seed)
        delivered = session.delivered()
        integrity = artifact_integrity(session, manifest, seed=seed, quick=quick)
    with open_nvml() as nvml:
        environment = record_environment(nvml)
    missed = tuple(
        (module, dtype)
        for module, dtype in undelivered(
            delivered, manifest.config, NUMERICS[manifest.numerics].compute_dtypes[0]
        )
        if dtype not in NUMERICS[manifest.numerics].compute_dtypes and module not in manifest.left
    )
    facts: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "toolkit": __version__,
        "artifact_sha256": manifest.file_sha256,
        "manifest_sha256": manifest_sha256(artifact.directory, manifest),
        "weights_sha256": manifest.weights.sha256,
        "runtime": runtime,
        "device": delivered.device,
        "capability": capability(delivered.device),
        "libraries": libraries(runtime, manifest),
        "parity": parity,
        "integrity": integrity,
        "delivered": DeliveredRecord(share=share_of(manifest, delivered), missed=missed)
        if delivered.layers
        else None,
        "timing": timing,
        "environment": environment,
        "passed": parity.passed and integrity.passed,
    }
    return sealed(Verdict(**facts, content_sha256="0" * 64))


def check_room(artifact: Artifact) -> None:
    """Check before any work that a verdict can be written beside ``artifact``.

    Raises:
        UsageError: it is a bare file, or the folder is signed, and another file in it would break
            the signature.
        MissingRequirement: the folder cannot be written to.
    """
    if artifact.bare:
        raise UsageError(
            f"{artifact.path} has no folder for a verdict",
            hint="make an artifact of it first: `format` onnx with `onnx`",
        )
    signature = artifact.directory / SIGNATURE_NAME
    if signature.exists():
        raise UsageError(
            f"{artifact.directory} is signed, and a new verdict would break the signature",
            hint=f"remove {signature}, and sign again afterwards",
        )
    if not os.access(artifact.directory, os.W_OK):
        raise MissingRequirement(
            f"cannot write to {artifact.directory}", hint="copy the artifact to a folder of yours"
        )


def write_verdict(artifact: Artifact, verdict: Verdict) -> Path:
    """Write ``verdict`` beside the file that it is about.

    Returns:
        The path of the written file.

    Raises:
        MissingRequirement: the folder cannot be written to.
    """
    path = artifact.directory / VERDICT_NAME
    try:
        write_whole(path, verdict.to_json().encode())
    except OSError as exc:
        raise MissingRequirement(f"cannot write {path}: {exc.strerror or exc}") from exc
    return path


def read_verdict(directory: Path) -> Verdict:
    """Read the verdict in an artifact's folder; what it says is not compared with anything yet.

    Raises:
        BadArtifact: there is none, it is not valid, or it was edited.
    """
    path = directory / VERDICT_NAME
    if not exists(path):
        raise BadArtifact(f"no {VERDICT_NAME} in {directory}", hint=_JUDGE)
    data = read_file(path, MOST_JSON, BadArtifact)
    try:
        verdict = Verdict.model_validate_json(data, strict=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"])) or "verdict"
        raise BadArtifact(f"{path} is not valid: {field}: {first['msg']}", hint=_JUDGE) from exc
    if sealed(verdict) != verdict or verdict.to_json().encode() != data:
        raise BadArtifact(f"{path} was edited after it was written", hint=_JUDGE)
    return verdict


def verdict_sha256(verdict: Verdict) -> str:
    """Digest of the bytes that ``verdict`` was read from: `read_verdict` takes no others."""
    return hashlib.sha256(verdict.to_json().encode()).hexdigest()


def verify_artifact(path: Path | str, *, trust: Trust | None = None) -> Verdict:
    """Read an artifact with its verdict, and believe the verdict only if it holds here and now.

    Runs nothing.

    Args:
        path: folder of the artifact, or the file in it.
        trust: as for `read_artifact`.

    Returns:
        The verdict: it passed, for these bytes, on this runtime and kind of machine.

    Raises:
        BadArtifact: a byte of the file, the manifest, the weights' record or the verdict differs,
            or there is no verdict.
        GateFailed: the verdict did not pass, is older than the artifact, or was reached on another
            version of the runtime or another kind of device.
    """
    trust = current_trust() if trust is None else trust
    artifact = read_artifact(Path(path), trust=trust)
    verdict = read_verdict(artifact.directory)
    digests = {VERDICT_NAME: verdict_sha256(verdict)}
    check_signed(artifact.directory, artifact.manifest, digests, trust)
    check_binding(artifact, verdict)
    if outdated := [*_later(artifact.manifest, verdict), *_elsewhere(artifact.manifest, verdict)]:
        raise GateFailed(
            f"the verdict in {artifact.directory} does not hold here: {'; '.join(outdated)}",
            hint=_JUDGE,
        )
    return verdict


def check_binding(artifact: Artifact, verdict: Verdict) -> None:
    """Check that ``verdict`` is about ``artifact``, byte by byte, and that it passed.

    Raises:
        BadArtifact: it is about other bytes, or says that it passed while its parts do not.
        GateFailed: it did not pass.
    """
    manifest = artifact.manifest
    digest = manifest_sha256(artifact.directory, manifest)
    for what, actual, declared in (
        (artifact.path, manifest.file_sha256, verdict.artifact_sha256),
        (artifact.directory / MANIFEST_NAME, digest, verdict.manifest_sha256),
        ("the record of the weights", manifest.weights.sha256, verdict.weights_sha256),
        ("the compared file", manifest.file_sha256, verdict.parity.artifact_sha256),
        ("the file in batches", manifest.file_sha256, verdict.integrity.artifact_sha256),
    ):
        if actual != declared:
            raise BadArtifact(
                f"the verdict in {artifact.directory} is about other bytes: sha256 of {what} is"
                f" {actual[:12]}, the verdict's is {str(declared)[:12]}",
                hint=_JUDGE,
            )
    if problem := _contradiction(verdict, manifest):
        raise BadArtifact(
            f"the verdict in {artifact.directory} contradicts itself: {problem}", hint=_JUDGE
        )
    if not verdict.passed:
        failures = (*verdict.parity.failures, *verdict.integrity.failures)
        raise GateFailed(
            f"the verdict in {artifact.directory} did not pass: {'; '.join(failures)}",
            hint="export the artifact again",
        )


def sealed(verdict: Verdict) -> Verdict:
    """``verdict`` with the digest of its content."""
    content = verdict.model_dump(mode="json", exclude={"content_sha256"})
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return verdict.model_copy(update={"content_sha256": digest})


def libraries(runtime: str, manifest: Manifest) -> dict[str, str]:
    """Versions of the installed libraries that compute when ``runtime`` runs the artifact of
    ``manifest``, by distribution.
    """
    modules = {runtime_named(runtime).package, _BEHIND.get(runtime, "")}
    if manifest.engine is not None:  # PyTorch only allocates for engines
        modules = {str(manifest.engine.library)}
    names = {name for module in modules for name in PACKAGES.get(module, ())}
    return {name: version for name, version in record_packages().items() if name in names}


def capability(device: str) -> str:
    """What code depends on in this machine's CPU or first GPU.

    Args:
        device: as a session reports it, for example ``cpu`` or ``cuda:0 NVIDIA H200``.
    """
    gpus = this_machine().driver.gpus
    if device.startswith("cuda") and gpus:
        return f"{gpus[0].name}, compute capability {gpus[0].compute_capability}"
    return cpu_capability()


_JUDGE = "judge it on this machine, with `artifact` DIR and `verdict`"


def _contradiction(verdict: Verdict, manifest: Manifest) -> str | None:
    """What in ``verdict`` cannot be true together, or None."""
    parity, integrity = verdict.parity, verdict.integrity
    broken = tuple(law.failure for law in integrity.laws if law.failure)
    if parity.passed != (not parity.failures):
        return "`passed` of parity does not follow from its failures"
    if integrity.passed != (not integrity.failures) or (broken and integrity.passed):
        return "`passed` of integrity does not follow from its laws"
    if verdict.passed != (parity.passed and integrity.passed):
        return "`passed` does not follow from its parts"
    if not parity.passed:
        return None
    if parity.gate is None or parity.gate not in PRESETS:
        return f"parity passed a gate of no known name: {parity.gate}"
    gate = gate_of(manifest, parity.gate)
    if parity.max_error is None or parity.min_cosine is None:
        return "parity passed without numbers"
    if parity.max_error > gate.max_error or parity.min_cosine < gate.min_cosine:
        return f"parity passed with a max error of {parity.max_error:.2e} of the logits' RMS"
    exceeded: list[str] = [limit.name for limit in parity.limits if not limit.passed]
    exceeded += [kind.name for kind in parity.inputs if not kind.finite]
    exceeded += [kind.name for kind in parity.inputs if (kind.max_error or 0) > kind.allowed]
    if exceeded:
        return f"parity passed with limits exceeded: {', '.join(exceeded)}"
    return None


def _later(manifest: Manifest, verdict: Verdict) -> list[str]:
    try:
        made, judged = map(datetime.datetime.fromisoformat, (manifest.created, verdict.created))
        older = judged < made
    except (ValueError, TypeError):  # no time, or one of them without a time zone
        older = True
    if older:
        return [f"it is of {verdict.created}, older than the artifact ({manifest.created})"]
    return []


def _elsewhere(manifest: Manifest, verdict: Verdict) -> list[str]:
    """What differs between the machine and software of ``verdict`` and those here."""
    found = []
    here = libraries(verdict.runtime, manifest)
    for name in sorted(verdict.libraries.keys() | here.keys()):
        now, then = here.get(name, "not installed"), verdict.libraries.get(name, "not installed")
        if now != then:
            found.append(f"{name} was {then}, is {now}")
    if (now := capability(verdict.device)) != verdict.capability:
        found.append(f"it was reached on {verdict.capability}, this is {now}")
    return found


def _timed(session: Session, manifest: Manifest, batch: int | None, seed: int) -> TimingRecord:
    spec = session.inputs[0]
    size = batch or manifest.batch.min
    images = seeded_inputs(manifest, size, seed)
    with session.bind({spec.name: np.ascontiguousarray(spec.cast(images))}) as bound:

        def run() -> None:
            bound.enqueue()
            bound.synchronize()

        run()
        began = now_ns()
        run()
        count = iterations_for(_TIMED_NS, now_ns() - began, least=_LEAST_RUNS)
        on_host = bound.boundary == "host"
        times = time_host(run, count) if on_host else time_device(bound, count)[0]
        return TimingRecord(
            batch=size,
            boundary=bound.boundary,
            median_ns=round(statistics.median(times)),
            samples=count,
        )
