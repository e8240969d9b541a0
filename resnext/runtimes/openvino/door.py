"""Opens an ONNX artifact or a packed IR on OpenVINO."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.findings import Finding
from resnext.machine.machine import Machine
from resnext.runtimes.registry import Device, SessionOptions

from .session import OpenvinoSession


def open_session(subject: Artifact, options: SessionOptions, name: str) -> OpenvinoSession:
    """Open an ONNX artifact or a packed IR.

    Raises:
        MissingRequirement: this build of OpenVINO cannot use the processor.
        SilentFallback: OpenVINO computes in another precision than the artifact's.
        BadArtifact: the file cannot be read, or does not agree with its manifest.
    """
    return OpenvinoSession(subject, options, name)


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """None: OpenVINO runs on every processor that it can be installed on."""
    del name, device, machine, prebuilt
    return None
