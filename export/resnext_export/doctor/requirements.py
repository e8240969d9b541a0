"""What the toolkit requires, from its own metadata, and the versions that it was tested with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from .tested import TESTED

TOOLKIT = "resnext-toolkit"
#: Extras that users install, and what each is for.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "bench": "facts about the machine in benchmarks",
        "hub": "weights by name from a hub",
        "loadgen": "MLPerf's LoadGen in benchmarks",
        "openvino": "OpenVINO",
        "parquet": "pictures from Parquet files, and results in them",
        "ray": "many machines",
        "sign": "signing and verifying artifacts",
        "triton": "Triton repositories and served models",
        "trt": "TensorRT",
        "trt-rtx": "TensorRT-RTX",
    }
)
#: Modules whose name is not their distribution's.
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "mlcommons-loadgen": "mlperf_loadgen",
        "nvidia-ml-py": "pynvml",
        "onnxruntime-gpu": "onnxruntime",
        "pillow": "PIL",
        "py-cpuinfo": "cpuinfo",
        "pyopenssl": "OpenSSL",
    }
)


@dataclass(frozen=True)
class Needed:
    """One requirement.

    Attributes:
        name: distribution, normalized.
        specifier: allowed versions.
        extra: the extra that requires it, or "" if the toolkit does.
    """

    name: str
    specifier: SpecifierSet
    extra: str = ""


def needed(lines: Iterable[str] | None = None) -> tuple[Needed, ...]:
    """The requirements that apply on this platform.

    Args:
        lines: as in metadata; None asks the installed toolkit, and gives nothing if it runs from a
            folder that was never installed.
    """
    if lines is None:
        try:
            lines = requires(TOOLKIT) or ()
        except PackageNotFoundError:
            lines = ()
    found: dict[str, Needed] = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # of another program with this name
            continue
        name = canonicalize_name(requirement.name)
        for extra in ("", *EXTRAS):
            marker = requirement.marker
            if name != TOOLKIT and (marker is None or marker.evaluate({"extra": extra})):
                found.setdefault(name, Needed(name, requirement.specifier, extra))
    return tuple(found.values())


def tested_version(name: str) -> Version | None:
    """The version of distribution ``name`` that the toolkit was tested with on this Python."""
    for line in TESTED:
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate()
        if canonicalize_name(requirement.name) == name and applies:
            [pin] = requirement.specifier
            return Version(pin.version)
    return None


def version_of(text: str | None) -> Version | None:
    """``text`` as a version without its local part (``+cpu``); None if it is none.

    OpenVINO appends the number of a build after a dash.
    """
    try:
        return Version(Version((text or "").partition("-")[0]).public)
    except InvalidVersion:
        return None
