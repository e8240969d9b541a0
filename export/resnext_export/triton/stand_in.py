"""The backends that a server gets: its own, and Python models of ours for those that it lacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .environment import Installation

#: For each backend that we can stand in for, the package that computes its models there. The third
#: computes nothing: an engine needs its GPU.
_COMPUTED_BY: Mapping[str, str | None] = MappingProxyType(
    {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": None}
)
_TITLES: Mapping[str, str] = MappingProxyType(
    {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
)
_CAVEATS: Mapping[str, str] = MappingProxyType(
    {
        "openvino": "backend openvino: the stand-in keeps the file's precision, and the real one"
        " may let OpenVINO compute in bfloat16 on a processor that can: check it with `url` there"
    }
)
_MODEL = Path(__file__).with_name("stand_in_model.py")


@dataclass(frozen=True)
class Runner:
    """What runs the models of one backend.

    Attributes:
        name: as a model's config spells it.
        ours: it is a stand-in of ours.
        computes: it computes logits; a stand-in for TensorRT does not.
        title: for reports.
        caveat: what the real backend may do otherwise; "" if nothing is known.
    """

    name: str
    ours: bool
    computes: bool
    title: str
    caveat: str = ""


def stand_ins(names: Iterable[str], installation: Installation) -> dict[str, Runner]:
    """Those of the backends ``names`` that the server lacks and we have a stand-in for."""
    if installation.stub is None:
        return {}
    lacking = {*names} - own_backends(installation)
    runners = {name: _stand_in(name, installation) for name in sorted(lacking)}
    return {name: runner for name, runner in runners.items() if runner is not None}


def backends_for(names: Iterable[str], installation: Installation, folder: Path) -> list[Runner]:
    """Fill ``folder``, which is empty, with the backends ``names`` as far as there are any; the
    server itself says which it lacks.

    A server with all of its files in place keeps its own folder, and ``folder`` stays empty.
    """
    wanted = {*names}
    own = [
        Runner(name, False, True, f"backend {name}: the server's own")
        for name in wanted & own_backends(installation)
    ]
    if installation.stub is None:
        return own
    shutil.copytree(installation.backends, folder, dirs_exist_ok=True)
    shutil.copy2(installation.stub, folder / "python")
    ours = stand_ins(wanted, installation)
    for name in ours:
        (folder / name).mkdir()
        shutil.copyfile(_MODEL, folder / name / "model.py")
    return sorted([*own, *ours.values()], key=lambda runner: runner.name)


def own_backends(installation: Installation) -> set[str]:
    """Names of the backends that the server itself has."""
    return {path.name for path in installation.backends.iterdir() if path.is_dir()}


def _stand_in(name: str, installation: Installation) -> Runner | None:
    if name not in _COMPUTED_BY:
        return None
    package = _COMPUTED_BY[name]
    if package is None:
        title = f"backend {name}: our stand-in, which computes no logits"
        return Runner(name, True, False, title)
    version = installation.versions.get(package)
    if version is None:
        return None
    title = f"backend {name}: our stand-in on {_TITLES[package]} {version}"
    return Runner(name, True, True, title, _CAVEATS.get(name, ""))
