"""A served network held against its artifact: logits, batches, labels, wrong requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnext.artifact.files import Artifact
from resnext.artifact.specs import BatchRange
from resnext.errors import BadWeights, GateFailed, SessionFailed
from resnext.findings import Finding
from resnext.progress import working
from resnext.runtimes.address import Address
from resnext.runtimes.registry import SessionOptions, open_session
from resnext.runtimes.session import Session
from resnext.runtimes.v2.http_transport import HttpTransport
from resnext.runtimes.v2.transport import Transport
from resnext.verify.batches.integrity import session_integrity
from resnext.verify.batches.laws import spans
from resnext.verify.batches.mixed import Mixed, mixed_requests
from resnext.verify.check import batched, comparison_for, logits_dtype, recorded_weights, whole
from resnext.verify.inputs import seeded_inputs
from resnext.verify.reference import Comparison

from .served import Served
from .wire import Wire
from .wrong_requests import refused_requests

#: Clients that send requests at once.
_CLIENTS = 8
#: Every batch size up to this is compared, and the ends of every range.
_EVERY = 16
#: Different images. A prime, so that rows that are shifted by any usual size show.
_DIFFERENT = 13
#: Largest batch of a model without a limit.
_OPEN = 33


@dataclass
class Examined:
    """What an exam found.

    Attributes:
        findings: what is wrong.
        lines: what was seen, one line each.
        unchecked: what could not be examined, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def add(self, other: Examined) -> None:
        """Take over what another found."""
        self.findings += other.findings
        self.lines += other.lines
        self.unchecked += other.unchecked


def examine_network(
    model: Served, artifact: Artifact, url: str, *, wire: Wire | None, computes: bool = True
) -> Examined:
    """Examine a model of a running server.

    Args:
        model: as it lies on disk.
        artifact: what it is made of.
        url: of the model on the server, as `SessionOptions.url` takes it.
        wire: for labels; None where the server's gRPC port is not known.
        computes: False for a stand-in that gives no logits.

    Raises:
        ResnextError: the server is not there, or another model is.
    """
    found, manifest = Examined(), artifact.manifest
    options = SessionOptions(url=url, streams=_CLIENTS)
    with open_session(artifact, "v2", options=options) as session:
        if computes:
            with working(f"comparing {model.name} with its reference"):
                _compare_logits(session, model, artifact, found)
        else:
            found.unchecked.append(f"{model.name}: logits, because the stand-in computes none")
        images = seeded_inputs(manifest, _DIFFERENT)
        numerics = manifest.numerics
        integrity = session_integrity(
            session, images, ranges=session.batch_ranges, numerics=numerics, quick=True
        )
        found.findings += [
            Finding(it.code, it.message, where=model.name) for it in integrity.findings
        ]
        with working(f"mixed requests to {model.name}"):
            mixed = mixed_requests(
                session,
                images,
                numerics=numerics,
                sizes=_sizes(session.batch_ranges, 4),
                rounding=integrity.rounding,
            )
        found.findings += [
            Finding(it.code, it.message, where=model.name) for it in mixed.integrity.findings
        ]
        _say_batched(model, mixed, found)
        least = session.batch_ranges[0].min
        spec = session.inputs[0]
        sample = np.ascontiguousarray(spec.cast(images[np.arange(least) % len(images)]))
        before = session(sample)
        with closing(transport_to(url)) as transport:
            refused = list(
                refused_requests(
                    lambda inputs: transport.infer(inputs, (session.outputs[0].name,)),
                    spec,
                    sample,
                    _most(model),
                )
            )
        found.findings += [
            Finding(it.code, it.message, it.hint, where=model.name) for it in refused
        ]
        if not np.array_equal(session(sample), before) and not integrity.noise:
            found.findings.append(
                Finding(
                    "wrong-request",
                    "after refused requests a sound one gives other logits than before",
                    where=model.name,
                )
            )
        if not refused:
            found.lines.append(f"{model.name}: wrong requests refused")
        if wire is not None and least == 1:
            found.findings += _labels(wire, model, artifact, sample)
        elif wire is not None and manifest.class_names:
            found.unchecked.append(f"{model.name}: labels, which the server gives for one image")
        elif manifest.class_names:
            found.unchecked.append(f"{model.name}: labels, which gRPC tells: give a grpc:// URL")
    return found


def _compare_logits(session: Session, model: Served, artifact: Artifact, found: Examined) -> None:
    """Compare at every batch size by the artifact's own gate."""
    manifest = artifact.manifest
    sizes = _sizes(session.batch_ranges, _EVERY)
    compared = _reference(model, artifact, found)
    if compared is None:
        return
    try:
        compared.refuse_if_useless("float64")
    except GateFailed as exc:
        found.unchecked.append(f"{model.name}: logits: {exc}")
        return
    inputs, graph = compared.inputs(manifest), artifact if manifest.kind == "onnx" else None
    extreme = compared.adversarial_inputs(manifest)
    worst = 0.0
    wrong: dict[int, str] = {}
    for size in sizes:
        rows = whole(len(inputs), size)
        adversarial = None
        try:
            logits = batched(session, inputs[rows], size)
            if size == sizes[-1]:  # once
                odd = whole(len(extreme), size)
                adversarial = batched(session, extreme[odd], size)[: len(extreme)]
        except SessionFailed as exc:
            wrong[size] = f"fails: {exc}"
            continue
        outcome = compared.parity(
            logits,
            manifest.numerics,
            artifact,
            dtype=logits_dtype(artifact, "v2"),
            graph=graph,
            rows=rows.tolist(),
            adversarial=adversarial,
        )
        if outcome.failures:
            wrong[size] = "; ".join(outcome.failures)
        if outcome.max_error is not None:
            allowed = outcome.inputs[0].allowed
            worst = max(worst, outcome.max_error / allowed if allowed else 0.0)
    if wrong:
        first = next(iter(wrong))
        others = f"; and so at batch {spans([*wrong][1:])}, with other numbers" * (len(wrong) > 1)
        message = f"batch {first}: {wrong[first]}{others}"
        hint = "its weights or its precision are others, or its backend computes wrongly"
        found.findings.append(Finding("served-logits", message, hint, where=model.name))
    else:
        found.lines.append(
            f"{model.name}: logits of batch {spans(sizes)} as {compared.title} gives them, at most"
            f" {worst:.2g} of the gate"
        )


def _reference(model: Served, artifact: Artifact, found: Examined) -> Comparison | None:
    """What to compare with: PyTorch, or the ONNX file itself where the weights are not here."""
    manifest = artifact.manifest
    weights = None
    if not manifest.foreign:
        try:
            weights = recorded_weights(artifact)
        except BadWeights as exc:
            found.unchecked.append(f"{model.name}: comparison with PyTorch: {exc.message}")
    if weights is None and manifest.kind != "onnx":
        found.unchecked.append(f"{model.name}: logits, because there is nothing to compare with")
        return None
    return comparison_for(artifact, weights, _DIFFERENT, 1, 0, None)


def _say_batched(model: Served, mixed: Mixed, found: Examined) -> None:
    if mixed.integrity.passed:
        counted = mixed.counted
        as_runs = "" if counted is None else f", which ran as {counted.executions} batches"
        found.lines.append(
            f"{model.name}: {mixed.requests} mixed requests of {_CLIENTS} clients{as_runs}, each"
            " row with the logits of its image"
        )
    if mixed.batched or not model.config.HasField("dynamic_batching"):
        return
    why = (
        "the server does not tell its statistics"
        if mixed.counted is None
        else f"none of {mixed.requests} requests shared a batch"
    )
    found.findings.append(
        Finding(
            "batching-not-seen",
            f"batching was not exercised: {why}",
            "a larger max_queue_delay_microseconds has requests wait for each other",
            "warning",
            model.at("dynamic_batching"),
        )
    )


def _labels(
    wire: Wire, model: Served, artifact: Artifact, sample: NDArray[Any]
) -> Iterator[Finding]:
    """The server calls each class what the artifact calls it."""
    names = artifact.manifest.class_names
    if not names or not any(output.label_filename for output in model.config.output):
        return
    spec, output = artifact.manifest.inputs[0], artifact.manifest.outputs[0]
    served = dict(wire.labels(model.name, {spec.name: sample}, output.name, len(names)))
    for index, name in enumerate(names):
        want = " ".join(name.split())
        if served.get(index) != want:
            yield Finding(
                "served-label",
                f"the server calls class {index} {served.get(index, '')!r}, and the artifact"
                f" {want!r}",
                "write the label file again: one name a line, in the order of the logits",
                where=model.name,
            )
            return


def _sizes(ranges: tuple[BatchRange, ...], every: int) -> tuple[int, ...]:
    """All batch sizes up to ``every`` in ``ranges``, and the ends of each."""
    ends = {each.min for each in ranges} | {each.max or max(_OPEN, each.min) for each in ranges}
    small = {size for size in range(1, every + 1) if any(size in each for each in ranges)}
    return tuple(sorted(small | ends))


def _most(model: Served) -> int | None:
    return model.config.max_batch_size or None


def transport_to(url: str) -> Transport:
    """A connection to a model that sends requests as they are."""
    address = Address.parse(url)
    if address.scheme != "grpc":
        return HttpTransport(address)
    from resnext.runtimes.v2.grpc_transport import GrpcTransport

    return GrpcTransport(address)
