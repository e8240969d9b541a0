"""The stored form of an explanation."""

from __future__ import annotations

from typing import Literal

from resnext.artifact.specs import Strict

from .sentence import Outlook, Sentence


class StageRecord(Strict):
    """The layers of one stage and kind.

    Attributes:
        stage: ``stem``, ``layer1`` and so on, ``head``.
        kind: ``stem``, ``1x1``, ``grouped 3x3`` (``3x3`` if there is one group), ``fc``.
        layers: number of layers.
        channels: input channels of a group: least and most.
        macs: multiply-accumulates of one image.
        weights: values in the weight tensors.
        floors_ns: least nanoseconds of a run by precision; empty if the ceilings are not known.
        limited_by: what sets each floor: ``compute`` or ``memory``.
    """

    stage: str
    kind: str
    layers: int
    channels: tuple[int, int]
    macs: int
    weights: int
    floors_ns: dict[str, float]
    limited_by: dict[str, Literal["compute", "memory"]]


class ExpectationRecord(Strict):
    """What to expect of one precision, or of merged groups.

    Attributes:
        topic: the precision, or ``merged groups``.
        outlook: in one word.
        sentences: why.
    """

    topic: str
    outlook: Outlook
    sentences: tuple[Sentence, ...]


class ExplanationRecord(Strict):
    """What to expect on this network and machine, before anything is built.

    Attributes:
        format_version: of this file.
        created: UTC time, ISO 8601.
        model: variant; None for another configuration.
        weights: where they come from; None if only the network is known.
        machine: in one line.
        target: GPU of another machine that it is about, as builders name it; None: this machine.
        backends: runtimes that it is about, each with the reason why it cannot run here, or "".
        batch: images in one run.
        macs: multiply-accumulates of one image.
        parameters: weights of convolutions and classifier.
        ceilings: what the floors are of, and when it was measured; None: there are no floors.
        stages: the network.
        topics: what to expect.
        notes: what could not be said, and why.
    """

    format_version: Literal[1] = 1
    created: str
    model: str | None
    weights: str | None
    machine: str
    target: str | None
    backends: dict[str, str]
    batch: int
    macs: int
    parameters: int
    ceilings: str | None
    stages: tuple[StageRecord, ...]
    topics: tuple[ExpectationRecord, ...]
    notes: tuple[str, ...] = ()
