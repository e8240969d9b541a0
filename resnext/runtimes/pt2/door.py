"""Opens a .pt2 package, or says why this machine cannot compile or run one."""

from __future__ import annotations

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.findings import Finding
from resnext.machine.machine import Machine
from resnext.runtimes.buffers import CudaMemory, HostMemory
from resnext.runtimes.loading import refuse
from resnext.runtimes.registry import Device, SessionOptions
from resnext.storage import scratch_folder

from . import toolchain
from .package import check_manifest, read_package
from .record import loadable, this_host
from .session import Pt2Session


def open_session(subject: Artifact, options: SessionOptions, name: str) -> Pt2Session:
    """Open a package.

    Raises:
        UsageError: it runs on another device than the requested one.
        BadArtifact: it is damaged, or does not agree with its manifest.
        MissingRequirement: it was compiled for another machine or PyTorch; says for which.
    """
    # PyTorch loads files only: a private copy, so that what was checked is what is loaded.
    with scratch_folder() as folder:
        copy = subject.copy_to(folder)
        package = read_package(copy, subject.path)
        record = package.record
        check_manifest(subject, package)
        if options.device not in ("auto", record.device):
            raise UsageError(
                f"{subject.path} was compiled for {record.device}",
                hint=f"drop `device` {options.device}, or export it for that",
            )
        refuse("package", loadable(subject.manifest, this_host()))
        memory = CudaMemory() if record.device == "cuda" else HostMemory()
        return Pt2Session(subject, copy, options, name, record, memory)


def available(name: str, device: Device, machine: Machine, *, prebuilt: bool) -> Finding | None:
    """What PyTorch lacks here; unless ``prebuilt``, also what its compilers lack."""
    # Imported here because a package opens without the model's source, which this builds.
    from resnext.runtimes.pytorch import door as pytorch

    problem = pytorch.available(name, device, machine, prebuilt=prebuilt)
    return problem if problem or prebuilt else toolchain.obstacle(device)
