"""Opens a model on a server."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.findings import Finding
from resnext.machine.machine import Machine
from resnext.runtimes.address import FORM, Address
from resnext.runtimes.registry import Device, SessionOptions, url_in

from .session import V2Session


def open_session(subject: Artifact, options: SessionOptions, name: str) -> V2Session:
    """Open the model at `SessionOptions.url`, which is to be made of ``subject``.

    Raises:
        UsageError: there is no URL, or it is not one of a model.
        SessionFailed: the server is not there, or the model is not ready.
        BadArtifact: it is another model.
    """
    if options.url is None:
        raise UsageError("backend 'v2' needs the URL of a model", hint=f"spell it v2:{FORM}")
    return V2Session(subject, options, Address.parse(options.url), name)


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """That a URL is needed; whether a server is there is known when it is opened."""
    del device, machine, prebuilt
    if url := url_in(name):
        Address.parse(url)
        return None
    return Finding("no-url", "backend 'v2' runs a model on a server", f"spell it v2:{FORM}")
