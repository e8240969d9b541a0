"""The steps of GPU acceptance that measure: each cell appends one row of JSON as soon as it is
known.

    python3 -m gpu_acceptance.steps STEP --rows rows.jsonl --cache FOLDER
        [--rehearse] [--resume] [--skip CELL] [--deadline SECONDS]

Everything but ``smoke``, ``trust``, ``package`` and ``ort-cuda`` needs PyTorch and the light
modules of `resnext` alone, no pydantic. A cell that fails is a row with the first line of its
error, and the next one goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sysconfig
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from resnext.images.synthetic import seeded_pixels
from resnext.machine.cuda_driver import probe_driver
from resnext.network.config import ResNeXtConfig
from resnext.precision import Precision
from resnext.timing.clock import time_device, time_host
from resnext_bench.limits import products

from .device import (
    COMPARED,
    LAYOUTS,
    Bench,
    Forward,
    floor_us,
    gpu_state,
    laid_out,
    live,
    measure_group,
    timed,
)
from .rows import Row, first_line, write_whole

if TYPE_CHECKING:
    from resnext.artifact.files import Artifact


def environment(bench: Bench) -> None:
    """What the machine is and has; written as a row and as environment.json beside the rows."""
    found: Row = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_file": torch.__file__,
        "torch_cuda": torch.version.cuda,
        "cudnn": torch._C._cudnn.getRuntimeVersion() if bench.cuda else None,
        "driver": repr(probe_driver()),
        "cpus": os.cpu_count(),
        "cpu_flags": _cpu_flags(),
        "compiler": shutil.which("cc"),
        "python_headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
    }
    if bench.cuda:
        card = torch.cuda.get_device_properties(0)
        found["card"] = {
            "name": card.name,
            "sms": card.multi_processor_count,
            "memory_bytes": card.total_memory,
            "l2_bytes": getattr(card, "L2_cache_size", None),
            "capability": f"{card.major}.{card.minor}",
            **gpu_state(),
        }
    path = bench.rows.parent / "environment.json"
    write_whole(
        path, json.dumps(found, indent=1, default=str) + "\n"
    )  # what follows may take long on a cold machine
    found |= {
        "nvidia_smi": output("nvidia-smi", "-q")[:6000],
        "nvcc": toolkit(),
        "modules": module_versions(),
    }
    found["backends"] = backend_obstacles()
    bench.write(
        "environment", **{key: found[key] for key in ("torch", "torch_cuda", "cudnn", "backends")}
    )
    write_whole(path, json.dumps(found, indent=1, default=str) + "\n")


def ceilings(bench: Bench) -> None:
    """What the card can do at most: copy, products, an empty graph."""
    size = 2**20 if bench.rehearse else 2**30
    if bench.wants("copy"):
        with bench.guarded("copy"):
            call = products.copy(size, size, bench.device)
            facts = timed(bench, {"copy": bench.queue(call, graph=False)})["copy"]
            bench.write("copy", **facts, tb_s=2 * size / facts["median_us"] / 1e6)
            del call
    side = 256 if bench.rehearse else 8192
    for precision in ("fp16", "bf16", "fp32", "tf32"):
        name = f"{precision} product"
        if bench.wants(name):
            with bench.guarded(name):
                product = products.cuda_product(precision, bench.device, side)
                queue = bench.queue(product.call, graph=False, tf32=precision == "tf32")
                facts = timed(bench, {name: queue}, rounds=3)[name]
                bench.write(name, **facts, tflops=product.operations / facts["median_us"] / 1e6)
    if bench.wants("empty launch"):
        with bench.guarded("empty launch"):
            queue = bench.queue(products.launches(bench.device), graph=True)
            facts = timed(bench, {"x": queue})["x"]
            bench.write("empty launch", **facts, launch_us=facts["median_us"] / products.LAUNCHES)


def smoke(bench: Bench) -> None:
    """The product's own sessions on the shipped digits network: every switch once, each against
    float64.
    """
    from resnext.runtimes.registry import SessionOptions, open_session
    from resnext.verify.eager import reference_logits
    from resnext.verify.parity import gate_for
    from resnext.weights.spec import load_weights

    weights = load_weights("digits")
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, 24))
    reference = reference_logits(weights, images)
    scale = float(np.sqrt(np.square(reference).mean()))
    device: Any = "cuda" if bench.cuda else "cpu"
    plans: list[tuple[str, Any, Any, bool]] = [
        ("torch", precision, layout, graph)
        for precision in ("fp32", "fp16", "bf16")
        for layout in ("nchw", "channels-last", "auto")
        for graph in (True, False)
    ]
    if bench.cuda:  # where alone it runs; last, because it times tiles
        plans.append(("torch-fused", "fp16", "auto", True))
    for backend, precision, layout, graph in plans:
        cell = f"{backend} {precision} {layout} {'graph' if graph else 'launch'}"
        if not bench.wants(cell):
            continue
        with bench.guarded(cell):
            options = SessionOptions(
                device=device, memory_format=layout, cuda_graph=graph, precision=precision
            )
            worst = 0.0
            with open_session(weights, backend, options=options) as session:
                # bind again: other input, other batch
                for rows in (slice(0, 8), slice(8, 16), slice(3, 4)):
                    bound = session.bind({"input": images[rows]})
                    boundary = bound.boundary
                    for _ in range(2):
                        bound.enqueue()
                        bound.synchronize()
                        logits = bound.fetch()["logits"]
                        between = session.run({"input": images[16:24]})["logits"]
                        for got, want in ((logits, reference[rows]), (between, reference[16:24])):
                            worst = max(worst, float(np.abs(got - want).max()) / scale)
                    bound.close()
            limit = 1e-4 if precision == "fp32" else gate_for(precision).max_error
            ok = worst <= limit
            bench.write(cell, "ok" if ok else "failed", max_error=worst, boundary=boundary)


def eager(bench: Bench) -> None:
    """Eager PyTorch in a CUDA graph: precisions, layouts, batches; with batch norms folded too."""
    # What is least known, and what others are measured against, first: the step may not get to its
    # end.
    plans = [
        ("fp16", 64),
        ("fp16", 8),
        ("fp16", 1),
        ("fp16", 256),
        ("fp32", 64),
        ("bf16", 64),
        ("fp32", 8),
        ("bf16", 8),
    ]
    plans += [("fp32", 1), ("bf16", 1), ("fp32", 256), ("bf16", 256)]
    for precision, batch in plans:
        if not bench.rehearse or batch <= 8:
            cells: dict[str, Callable[[], tuple[Forward, int, str]]] = {}
            for layout in LAYOUTS:
                cells[f"{precision} batch {batch} {layout}"] = partial(
                    live, bench, batch, precision, layout
                )
            if precision != "fp32":
                name = f"{precision} batch {batch} channels-last folded"
                cells[name] = partial(live, bench, batch, precision, "channels-last", folded=True)
            measure_group(bench, cells)


def merged(bench: Bench) -> None:
    """Merged groups, folded, channels-last, fp16: is widening them free?"""
    for batch in (8,) if bench.rehearse else (64, 8, 256):
        cells = {
            f"fp16 batch {batch} groups {width or 'as is'}": partial(
                live, bench, batch, "fp16", "channels-last", folded=True, width=width
            )
            for width in (None, 8, 16, 32, 64, 128)
        }
        measure_group(bench, cells, plain=False)
    for stage, layer in enumerate(_grouped_layers(bench.config)):
        names = {
            width: f"3x3 alone, stage {stage + 1}, batch 64, width {width}"
            for width in (None, 16, 32, 64, 128)
        }
        wanted = {width: name for width, name in names.items() if bench.wants(name)}
        if not wanted:
            continue
        with bench.guarded(f"3x3 alone, stage {stage + 1}"):
            channels, groups, size = layer
            images = torch.randn(
                4 if bench.rehearse else 64, channels, size, size, device=bench.device
            )
            images = images.to(torch.float16).contiguous(memory_format=torch.channels_last)
            queues = {}
            for width, name in wanted.items():
                with bench.guarded(name):
                    fewer = (
                        groups
                        if width is None
                        else max(1, min(groups, channels // max(width, channels // groups)))
                    )
                    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=fewer, bias=False)
                    conv = laid_out(bench, conv, "fp16", "channels-last")  # type: ignore[assignment]  # stays a Conv2d
                    queues[name] = bench.queue(Forward(conv, images), graph=True)
            for name, facts in timed(bench, queues, rounds=3).items():
                bench.write(name, **facts)


def chunks(bench: Bench) -> None:
    """A batch as several smaller ones in one graph: does a live set that fits into L2 pay?"""
    plans = ((8, 4),) if bench.rehearse else ((64, 8), (64, 16), (256, 32), (256, 16))
    for batch in dict.fromkeys(batch for batch, _ in plans):
        cells = {
            f"fp16 batch {batch} at once": partial(
                live, bench, batch, "fp16", "channels-last", folded=True
            )
        }
        for size in (size for whole, size in plans if whole == batch):
            cells[f"fp16 batch {batch} in parts of {size}"] = partial(
                live, bench, batch, "fp16", "channels-last", folded=True, part=size
            )
        measure_group(bench, cells, plain=False)


def compiled(bench: Bench) -> None:
    """torch.compile, as it comes and with batch norms folded."""
    plans: list[tuple[str, int, bool, str | None]] = [
        ("fp16", 64, False, None),
        ("fp16", 8, False, None),
        ("fp16", 64, True, None),
        ("fp16", 1, False, None),
        ("fp16", 256, False, None),
        ("bf16", 64, False, None),
        ("fp32", 64, False, None),
        ("fp16", 64, True, "max-autotune-no-cudagraphs"),
    ]
    if bench.rehearse:
        plans = [("fp32", 8, True, None)]
    for precision, batch, folded, mode in plans:
        cell = f"{precision} batch {batch}{' folded' if folded else ''}{' ' + mode if mode else ''}"
        make = partial(
            live,
            bench,
            batch,
            precision,
            "channels-last",
            folded=folded,
            compiled=mode or "default",
        )
        measure_group(bench, {cell: make})
        torch.compiler.reset()


def kernels(bench: Bench) -> None:
    """Each kind of layer on our kernels, against PyTorch's libraries."""
    from .kernels import kernels as measure  # needs Triton

    measure(bench)


def fused(bench: Bench) -> None:
    """The whole network on our kernels, against PyTorch."""
    from .fused import fused as measure  # needs Triton

    measure(bench)


def autotune(bench: Bench) -> None:
    """The same against torch.compile with every kernel searched for."""
    from .fused import autotune as measure  # needs Triton

    measure(bench)


def trust(bench: Bench) -> None:
    """Batch integrity and the parity gates of live sessions: do limits that were found on CPUs hold
    for a GPU's kernels?
    """
    from resnext.runtimes.registry import SessionOptions, open_session
    from resnext.verify.batches.integrity import session_integrity
    from resnext.verify.reference import Reference
    from resnext.weights.spec import load_weights

    weights = (
        load_weights("digits") if bench.rehearse else load_weights("seeded", "resnext50_32x4d")
    )
    eager = Reference(weights, seeded_pixels(weights.config, 13))
    device: Any = "cuda" if bench.cuda else "cpu"
    # fp16 last: eager fp16 is slow on a CPU without instructions for it.
    for precision in ("fp32", "bf16", "fp16"):
        on_kernels = ("torch-fused",) if bench.cuda and precision != "fp32" else ()
        for backend in ("torch", "torch-folded", *on_kernels):
            cell = f"gates {backend} {precision}"
            if not bench.wants(cell):
                continue
            options = SessionOptions(device=device, precision=precision)
            with bench.guarded(cell), open_session(weights, backend, options=options) as session:
                parity = eager.parity(
                    session(eager.images),
                    precision,
                    dtype=session.outputs[0].dtype,
                    adversarial=session(eager.adversarial_inputs(None)),
                )
                bench.write(
                    cell,
                    "ok" if parity.passed else "failed",
                    max_error=parity.max_error,
                    top1=parity.top1,
                    parity=parity.model_dump(mode="json"),
                    **({} if parity.passed else {"error": parity.failures[0]}),
                )
    # All batch sizes at the precision that GPUs are used with; a few at the others.
    plans: list[tuple[str, Precision, tuple[int, ...] | None]] = [
        ("torch", "bf16", (2, 8, 33)),
        ("torch-folded", "fp16", (2, 8, 33)),
        ("torch", "fp32", (2, 8, 33)),
        ("torch", "fp16", None),
    ]
    if bench.rehearse:
        plans = [(backend, precision, (2, 8)) for backend, precision, _ in plans]
    if bench.cuda:
        plans.insert(0, ("torch-fused", "fp16", (2, 8, 33)))
    for backend, precision, sizes in plans:
        cell = f"rows {backend} {precision}"
        if not bench.wants(cell):
            continue
        options = SessionOptions(device=device, precision=precision)
        with bench.guarded(cell), open_session(weights, backend, options=options) as session:
            integrity = session_integrity(
                session,
                eager.images,
                ranges=None,
                numerics=precision,
                sizes=sizes,
            )
            bench.write(
                cell,
                "ok" if integrity.passed else "failed",
                max_error=max((law.worst or 0.0 for law in integrity.laws), default=None),
                integrity=integrity.model_dump(mode="json"),
                **({} if integrity.passed else {"error": integrity.failures[0]}),
            )


def package(bench: Bench) -> None:
    """A .pt2 package from export to its own parity check, and how fast it replays."""
    from resnext.runtimes.registry import SessionOptions, open_session
    from resnext.weights.spec import load_weights
    from resnext_export import export

    device: Any = "cuda" if bench.cuda else "cpu"
    weights = (
        load_weights("digits") if bench.rehearse else load_weights("seeded", "resnext50_32x4d")
    )
    plans: list[tuple[Precision, int, dict[str, Any]]] = [("fp32", 8, {})]
    if not bench.rehearse:
        plans = [("fp16", 64, {}), ("fp16", 64, {"kernels": "fused"}), *plans]
    for precision, batch, more in plans:
        cell = " ".join(["pt2", *more.values(), f"{precision} batch {batch}"])
        if not bench.wants(cell):
            continue
        with bench.guarded(cell):
            folder = bench.cache / cell.replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            started = time.monotonic()
            artifact = export(
                weights,
                folder,
                format="pt2",
                batch=str(batch),
                precision=precision,
                device=device,
                **more,
            )
            built_s = time.monotonic() - started
            check = artifact.manifest.check
            images = weights.preprocessing.normalize(seeded_pixels(weights.config, COMPARED))
            images = np.tile(images, (max(1, batch // COMPARED), 1, 1, 1))[:batch]
            with open_session(artifact, "pt2", options=SessionOptions(device=device)) as session:
                bound = session.bind({"input": np.ascontiguousarray(images)})
                if bench.cuda:
                    times, _ = time_device(bound, 50)
                else:
                    times = time_host(bound.enqueue, 10)
                median_us = statistics.median(times) / 1e3
                boundary = bound.boundary
            error = None if check is None else check.max_error
            bench.write(
                cell,
                batch=batch,
                precision=precision,
                built_s=built_s,
                median_us=median_us,
                boundary=boundary,
                images_s=batch / median_us * 1e6,
                max_error=error,
                floor_us=floor_us(bench.config, batch, precision),
            )
            if (precision, batch, more) == plans[0]:
                _verdict(bench, artifact, precision)


def _verdict(bench: Bench, artifact: Artifact, precision: str) -> None:
    """A verdict of this machine's device: it holds here, and not for another device."""
    from resnext.errors import GateFailed
    from resnext.verify.verdict import judge, sealed, verify_artifact, write_verdict

    cell = f"verdict pt2 {precision}"
    with bench.guarded(cell):
        verdict = judge(artifact)
        write_verdict(artifact, verdict)
        verify_artifact(artifact.directory)
        write_verdict(artifact, sealed(verdict.model_copy(update={"capability": "another GPU"})))
        try:
            verify_artifact(artifact.directory)
        except GateFailed as exc:
            right, error = "another GPU" in str(exc), str(exc)
        else:
            right, error = False, "a verdict of another device was believed"
        write_verdict(artifact, verdict)
        bench.write(
            cell,
            "ok" if right and verdict.passed else "failed",
            max_error=verdict.parity.max_error,
            verdict=verdict.model_dump(mode="json"),
            **({} if right and verdict.passed else {"error": error}),
        )


def ort_cuda(bench: Bench) -> None:
    """ONNX Runtime's CUDA provider over its settings: TF32, layout, graph."""
    import onnxruntime as ort

    from resnext.weights.spec import load_weights
    from resnext_export import ExportRequest
    from resnext_export.store import build_or_reuse

    provider = "CUDAExecutionProvider" if bench.cuda else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        bench.write(
            "onnxruntime",
            "skipped",
            error=f"onnxruntime {ort.__version__} ({ort.__file__}) has no {provider}",
        )
        return
    if bench.cuda:
        ort.preload_dlls()
    weights = (
        load_weights("digits") if bench.rehearse else load_weights("seeded", "resnext50_32x4d")
    )
    precisions: tuple[Precision, ...] = ("fp32",) if bench.rehearse else ("fp16", "fp32")
    for precision in precisions:
        with bench.guarded(f"ort {precision} export"):
            artifact = build_or_reuse(ExportRequest(precision=precision), weights).artifact
            for batch in (8,) if bench.rehearse else (64, 8, 1):
                for tf32, nhwc, graph in ((0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 0)):
                    cell = (
                        f"ort {precision} batch {batch} use_tf32={tf32} prefer_nhwc={nhwc}"
                        f" graph={graph}"
                    )
                    if bench.wants(cell):
                        with bench.guarded(cell):
                            _ort_cell(
                                bench,
                                ort,
                                artifact,
                                weights,
                                cell,
                                precision,
                                batch,
                                (tf32, nhwc, graph),
                            )


def _ort_cell(
    bench: Bench,
    ort: Any,
    artifact: Any,
    weights: Any,
    cell: str,
    precision: str,
    batch: int,
    switches: tuple[int, int, int],
) -> None:
    from resnext.verify.eager import cached_reference_logits

    tf32, nhwc, graph = switches
    native = ort.SessionOptions()
    native.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if bench.cuda:
        native.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        settings = {
            "use_tf32": str(tf32),
            "prefer_nhwc": str(nhwc),
            "enable_cuda_graph": str(graph),
        }
        settings["user_compute_stream"] = str(bench.stream)
        providers = [("CUDAExecutionProvider", settings)]
    session = ort.InferenceSession(str(artifact.path), native, providers=providers)
    images = weights.preprocessing.normalize(seeded_pixels(weights.config, COMPARED))
    batch_images = np.ascontiguousarray(
        np.tile(images, (max(1, batch // COMPARED), 1, 1, 1))[:batch]
    )
    where = "cuda" if bench.cuda else "cpu"
    binding = session.io_binding()
    given = ort.OrtValue.ortvalue_from_numpy(batch_images, where, 0)
    taken = ort.OrtValue.ortvalue_from_shape_and_type(
        [batch, weights.config.num_classes], np.float32, where, 0
    )
    binding.bind_ortvalue_input("input", given)
    binding.bind_ortvalue_output("logits", taken)
    run = ort.RunOptions()
    run.add_run_config_entry("disable_synchronize_execution_providers", "1")
    queue = bench.queue(lambda: session.run_with_iobinding(binding, run), graph=False)
    facts = timed(bench, {cell: queue}, rounds=3)[cell]
    bench.synchronize()
    want = cached_reference_logits(weights, images[: min(batch, COMPARED)], torch.float64)
    got = taken.numpy()[: len(want)]
    error = float(np.abs(got - want).max() / np.sqrt(np.square(want).mean()))
    bench.write(
        cell,
        batch=batch,
        precision=precision,
        **facts,
        images_s=batch / facts["median_us"] * 1e6,
        max_error=error,
    )


STEPS: Mapping[str, Callable[[Bench], None]] = {
    "environment": environment,
    "ceilings": ceilings,
    "smoke": smoke,
    "kernels": kernels,
    "fused": fused,
    "autotune": autotune,
    "package": package,
    "merged": merged,
    "chunks": chunks,
    "compile": compiled,
    "ort-cuda": ort_cuda,
    "trust": trust,
    "eager": eager,
}


def _grouped_layers(config: ResNeXtConfig) -> list[tuple[int, int, int]]:
    """Channels, groups and width in pixels of the 3x3s after the first block of each stage."""
    height = config.input_size[0] // 4
    return [
        (config.inner_channels(stage), config.cardinality, max(1, height >> stage))
        for stage in range(len(config.depths))
    ]


def output(*command: str) -> str:
    """What a command prints, or why it does not."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        return first_line(exc)


def toolkit() -> Row:
    """Where the CUDA toolkit is, by every way of asking."""
    nvcc = shutil.which("nvcc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils import cpp_extension
    homes = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        cpp_extension.CUDA_HOME,
        "/usr/local/cuda",
    ]
    return {
        "which": nvcc,
        "first_bytes": (
            None if nvcc is None else Path(nvcc).read_bytes()[:200].decode(errors="replace")
        ),
        "torch_cuda_home": cpp_extension.CUDA_HOME,
        "headers": {str(home): Path(home, "include", "cuda.h").is_file() for home in homes if home},
        "libcuda": [
            line.strip() for line in output("ldconfig", "-p").splitlines() if "libcuda.so" in line
        ],
    }


_MODULES = (
    "numpy",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pydantic",
    "platformdirs",
    "tensorrt",
    "pytest",
)


def module_versions() -> Row:
    """Version and file of what would be imported."""
    found: Row = {}
    for name in _MODULES:
        try:
            module = __import__(name)
            found[name] = f"{getattr(module, '__version__', '?')} {module.__file__}"
        except Exception as exc:  # a missing or broken package is what we want to know
            found[name] = first_line(exc)
    return found


def backend_obstacles() -> Row:
    """What keeps each backend from running here."""
    try:
        from resnext.runtimes.availability import available
        from resnext.runtimes.registry import LOCAL_RUNTIMES

        return {name: str(available(name) or "can run") for name in LOCAL_RUNTIMES}
    except Exception as exc:  # the light part of the environment stands without it
        return {"unknown": first_line(exc)}


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return [flag for flag in flags if flag.startswith(("amx", "avx512"))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--skip", action="append", default=[], metavar="CELL")
    parser.add_argument("--deadline", type=float, default=math.inf)
    asked = parser.parse_args(arguments)
    # A step that crashes, or has no more time, shows where.
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, all_threads=True, chain=True)
    bench = Bench(
        asked.step,
        asked.rows,
        asked.cache,
        rehearse=asked.rehearse,
        resume=asked.resume,
        skip=asked.skip,
        deadline=asked.deadline,
    )
    with bench.guarded(asked.step):
        STEPS[asked.step](bench)


if __name__ == "__main__":
    main()
