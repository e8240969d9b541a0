"""An artifact's manifest has the versions of the modules that made it, whatever was installed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from resnext.machine import environment
from resnext.machine.machine import this_machine
from resnext.runtimes.trt import library
from resnext.runtimes.trt.compatibility import with_library
from resnext_export.publish import library_versions


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Metadata say 1.0 for everything, and these modules are imported."""

    def plant(**modules: str | None) -> None:
        for where in (environment, library):
            monkeypatch.setattr(where, "version", lambda _: "1.0")
        for name in environment.PACKAGES:
            if name not in modules:
                monkeypatch.delitem(sys.modules, name, raising=False)
        for name, version in modules.items():
            module: Any = ModuleType(name)
            if version is not None:
                module.__version__ = version
            module.get_available_providers = lambda: ["CPUExecutionProvider"]
            monkeypatch.setitem(sys.modules, name, module)

    return plant


def test_an_imported_module_says_its_own_version_and_the_others_metadata_theirs(plant: Any) -> None:
    plant(torch="2.0", onnx=None)
    versions = library_versions()
    assert (versions["torch"], versions["onnx"], versions["numpy"]) == ("2.0", "1.0", "1.0")


def test_of_two_packages_that_own_one_module_the_imported_one_is_recorded(plant: Any) -> None:
    plant()
    versions = library_versions()
    assert {"onnxruntime-gpu", "onnxruntime"} <= set(versions)  # nobody can tell yet
    plant(onnxruntime="2.0")
    versions = library_versions()
    assert versions["onnxruntime"] == "2.0"
    assert "onnxruntime-gpu" not in versions


def test_the_number_of_openvino_s_build_is_no_part_of_its_version(plant: Any) -> None:
    plant(openvino="2026.4.1-22982-e213a147257-releases/2026/4")
    assert library_versions("openvino")["openvino"] == "2026.4.1"


@pytest.mark.parametrize("product", library.LIBRARIES.values(), ids=library.LIBRARIES)
def test_an_engine_is_judged_by_the_imported_library(product: Any, plant: Any) -> None:
    plant(**{product.package: "2.0"})
    assert with_library(this_machine(), product).version == "2.0"
    plant()
    assert with_library(this_machine(), product).version == "1.0"
