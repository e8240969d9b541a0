"""The stored result of a run: raw samples with everything needed to judge them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from resnext.artifact.manifest import WeightsRecord
from resnext.artifact.specs import Strict
from resnext.errors import BadInput
from resnext.machine.environment import Environment
from resnext.machine.nvml import GpuState
from resnext.runtimes.session import Boundary
from resnext.verify.accuracy import Accuracy
from resnext.verify.parity import Parity

from .stats import Stats

FORMAT_VERSION = 1


class Timing(Strict):
    """Times of one cell at one boundary.

    Attributes:
        boundary: what the times enclose; unlike boundaries are never compared.
        rounds_ns: raw nanoseconds, one list for each round.
        stats: derived from them.
        speedup: times faster than the first backend at the same batch and boundary: (median,
            lowest, highest) over rounds; None where one of the two is not valid.
    """

    boundary: Boundary
    rounds_ns: tuple[tuple[int, ...], ...]
    stats: Stats
    speedup: tuple[float, float, float] | None = None


class Row(Strict):
    """One cell's outcome.

    Attributes:
        backend: registry name.
        batch: images in one run.
        variant: which of the run's precisions or artifacts, where it has several; else nothing.
        precision: asked for; None in files of before a run could have several.
        status: ``valid``; ``invalid``: measured, but not to be believed; ``failed``: not measured.
        reasons: why not valid, each with what to do.
        exit_code: of the error, for a failed row.
        device: where it really ran.
        delivered: what convolutions and matrix products really got.
        notes: threads, memory format, CUDA graph, ...
        timings: by boundary; empty for a failed row.
        warmup_runs: untimed runs before.
        setup_s: seconds to open, bind and first run the session, compilation included.
        bind_s: seconds of the bind and first run alone: kernels are chosen or compiled
            (TensorRT-RTX) and CUDA graphs captured here.
        peak_host_bytes: peak memory that this session added to the process.
        peak_device_bytes: memory that it added on the device.
        gpu: what the GPU did in each round; empty for a CPU, and where NVML does not tell.
        model_size_bytes: size of the artifact's file, or of the tensors for a live model.
        artifact_sha256: digest of the file that ran, or None for a live model.
        parity: of the outputs of the timed runs themselves, against float64 PyTorch.
        accuracy: on labelled images, against their labels and float32 PyTorch; None where it was
            not asked for.
    """

    backend: str
    batch: int
    variant: str = ""
    precision: str | None = None
    status: Literal["valid", "invalid", "failed"]
    reasons: tuple[str, ...] = ()
    exit_code: int = 0
    device: str | None = None
    delivered: str | None = None
    notes: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    timings: tuple[Timing, ...] = ()
    warmup_runs: int = 0
    setup_s: float | None = None
    bind_s: float | None = None
    peak_host_bytes: int | None = None
    peak_device_bytes: int | None = None
    gpu: tuple[GpuState, ...] = ()
    model_size_bytes: int | None = None
    artifact_sha256: str | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None


class Run(Strict):
    """Everything of one call of ``resnext-bench``.

    Attributes:
        format_version: of this file; readers refuse any other.
        created: UTC time, ISO 8601.
        model: variant, or None for a configuration without a name.
        weights: source and digest.
        precision: that was asked for, or several, joined by commas.
        duration_s: timed seconds asked for each cell.
        rounds: visits to each cell.
        seed: of images and order.
        threads: asked for, or None for each backend's default.
        reused: artifacts that came from the cache, by what was said of them.
        environment: machine and software.
        rows: one for each cell.
    """

    format_version: Literal[1] = 1
    created: str
    model: str | None
    weights: WeightsRecord
    precision: str
    duration_s: float
    rounds: int
    seed: int
    threads: int | None
    reused: tuple[str, ...] = ()
    environment: Environment
    rows: tuple[Row, ...]


def read_run(path: Path) -> Run:
    """Read a stored run.

    Raises:
        BadInput: missing, not JSON, or not a run of this format version.
    """
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"cannot read {path}: {exc.strerror}") from exc
    except (ValidationError, UnicodeDecodeError) as exc:
        detail = (
            exc.errors()[0] if isinstance(exc, ValidationError) else {"loc": (), "msg": str(exc)}
        )
        where = ".".join(map(str, detail["loc"]))
        raise BadInput(
            f"{path} is not a stored run (format_version {FORMAT_VERSION}): {where} {detail['msg']}"
        ) from exc
