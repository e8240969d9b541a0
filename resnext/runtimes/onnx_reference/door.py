"""Opens an ONNX artifact on the reference evaluator."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.findings import Finding
from resnext.machine.machine import Machine
from resnext.runtimes.registry import Device, SessionOptions

from .session import ReferenceSession


def open_session(subject: Artifact, options: SessionOptions, name: str) -> ReferenceSession:
    """Open an ONNX artifact.

    Raises:
        BadArtifact: ONNX Runtime cannot read it, or it does not agree with its manifest.
    """
    return ReferenceSession(subject, options, name)


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """None: it runs wherever ONNX Runtime is installed."""
    del name, device, machine, prebuilt
    return None
