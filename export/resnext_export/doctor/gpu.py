"""The NVIDIA driver, and the libraries that packages want from CUDA."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from resnext.machine.nvml import open_nvml
from resnext.machine.shared_libraries import DRIVER_HINT, library_hint
from resnext.readers.libraries import needed_libraries
from resnext.runtimes.trt.library import LIBRARIES

from .child import Died
from .facts import Facts
from .observation import Observation, absent, ok, problem, warning

#: The library that ONNX Runtime loads for its CUDA provider.
_PROVIDER = "libonnxruntime_providers_cuda.so"
#: Loaded by name when the first convolution runs, so the provider's file does not list it.
_LATER = ("libcudnn.so.9",)
_LOAD_S = 120.0


def check_driver(facts: Facts) -> Iterator[Observation]:
    """The driver, its devices, and what a container sees of both."""
    driver = facts.driver
    nodes = sorted(path.name for path in (facts.root / "dev").glob("nvidia[0-9]*"))
    windows = (facts.root / "dev/dxg").exists()
    if driver.problem is None:
        names = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in driver.gpus)
        with open_nvml() as nvml:
            numbers = {gpu.driver for gpu in nvml.gpus()}
            persistent = nvml.persistence()
        version = f"driver {', '.join(sorted(numbers))}, " if numbers else ""
        yield ok(f"{names}; {version}CUDA {driver.cuda_version}")
        if persistent is False:
            yield warning(
                "no-persistence",
                "persistence mode is off: the first use of the GPU takes seconds",
                "nvidia-smi -pm 1",
            )
        return
    hidden = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if nodes or windows:
        where = "/dev/dxg (WSL)" if windows else f"/dev/{nodes[0]}"
        if hidden is not None and hidden.strip() in ("", "-1"):
            yield absent(
                "hidden-gpu",
                f"{where} is here, and CUDA_VISIBLE_DEVICES={hidden!r} hides it",
                "unset CUDA_VISIBLE_DEVICES",
            )
            return
        hint = DRIVER_HINT
        if windows:
            hint = "export LD_LIBRARY_PATH=/usr/lib/wsl/lib, and update the driver on Windows"
        elif "not installed" not in driver.problem:
            hint = "see nvidia-smi; restart after an update of the driver"
        yield problem("unusable-gpu", f"{where} is here, but {driver.problem}", hint)
    elif "not installed" in driver.problem:
        yield absent("no-driver", f"no GPU: {driver.problem}")
    else:
        hint = "if the machine has one, start the container with `gpus` all"
        yield absent("no-device", f"no GPU: {driver.problem}", hint)


def check_cuda_versions(facts: Facts) -> Iterator[Observation]:
    """CUDA of the packages against the newest that the driver supports."""
    wanted = cuda_of_packages(facts)
    listed = ", ".join(f"{name} {cuda}" for name, cuda in wanted.items())
    driver = facts.driver
    if not wanted:
        yield absent("no-cuda-package", "no installed package is built for CUDA")
    elif driver.problem is not None or driver.cuda_version is None:
        yield absent("no-device", f"built for CUDA, which is not used without a GPU: {listed}")
    else:
        newest = int(driver.cuda_version.partition(".")[0])
        late = {name: cuda for name, cuda in wanted.items() if int(cuda.partition(".")[0]) > newest}
        for name, cuda in late.items():
            yield problem(
                "old-driver",
                f"{name} is built for CUDA {cuda}, and the driver supports {driver.cuda_version}",
                f"update the NVIDIA driver, or install {name} built for CUDA {newest}",
            )
        if len(late) < len(wanted):
            yield ok(f"the driver supports CUDA {driver.cuda_version}; {listed}")
    if driver.problem is None and facts.module("torch") and not facts.module("torch").get("cuda"):
        yield warning(
            "cpu-torch",
            f"torch {facts.module('torch').get('version')} is built without CUDA, and a GPU is"
            " here",
            "install a CUDA build of torch (pytorch.org, Get Started)",
        )


def cuda_of_packages(facts: Facts) -> Mapping[str, str]:
    """The version of CUDA that each installed package is built for."""
    found = {name: facts.module(name).get("cuda") for name in ("torch", "onnxruntime")}
    for library in LIBRARIES.values():
        if library.version is not None and library.cuda is not None:
            found[library.package] = str(library.cuda)
    return {name: str(cuda) for name, cuda in found.items() if cuda}


def check_ort_libraries(facts: Facts) -> Iterator[Observation]:
    """The CUDA and cuDNN libraries that ONNX Runtime's CUDA provider is linked with."""
    module = facts.module("onnxruntime")
    provider = Path(str(module.get("file"))).parent / "capi" / _PROVIDER
    if not module or not provider.is_file():
        yield absent(
            "no-cuda-provider",
            "onnxruntime has no CUDA provider",
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        )
        return
    try:
        with (
            provider.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            linked = needed_libraries(data)
    except (OSError, ValueError) as exc:
        yield problem(
            "damaged-library",
            f"{provider} {exc}",
            "pip uninstall -y onnxruntime-gpu && pip install onnxruntime-gpu",
        )
        return
    names = [name for name in linked if name.startswith(("libcu", "libnv"))]
    names += [name for name in _LATER if name not in names]
    missing = []
    for name, answer in facts.examine(f"{__package__}.loading", names, timeout_s=_LOAD_S):
        if isinstance(answer, Died) or answer:
            missing.append(name)
    if not missing:
        yield ok(f"found: {', '.join(names)}")
        return
    cuda = str(module.get("cuda") or "13").partition(".")[0]
    hints = dict.fromkeys(
        library_hint(name, int(cuda)).removeprefix("pip install ")
        for name in missing
        if name != "libcuda.so.1"
    )
    hint = f"pip install {' '.join(hints)}" if hints else DRIVER_HINT
    line = f"onnxruntime's CUDA provider lacks {', '.join(missing)}"
    if facts.driver.problem is None:
        yield problem("no-cuda-libraries", line, hint)
    else:
        yield absent("no-cuda-libraries", f"{line}, not used without a GPU", hint)
