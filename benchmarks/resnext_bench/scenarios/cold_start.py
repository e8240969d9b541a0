"""A cold start: the time from nothing to the first answer, in fresh processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from resnext.artifact.files import Artifact
from resnext.errors import UsageError
from resnext.runtimes.registry import runtime_named
from resnext.storage import remove, scratch_folder
from resnext.verify.subject import weights_of
from resnext_bench.child import OPENING_S, Child

from .cold_protocol import ColdJob
from .cold_record import ColdStartRecord, Start
from .page_cache import drop_pages
from .scenario import Stage

_MODULE = "resnext_bench.scenarios.cold_process"
#: Variables that name a cache of a runtime or a compiler, each with a folder for it.
_CACHES = {
    "RESNEXT_CACHE_DIR": "toolkit",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "XDG_CACHE_HOME": "others",
}


@dataclass(frozen=True)
class ColdStart:
    """Starts every row's session in fresh processes.

    Attributes:
        repetitions: pairs of starts: in an empty cache folder, then again in the same folder.
        timeout_s: longest wait for one start, which may compile.

    Raises:
        UsageError: there are none.
    """

    repetitions: int = 3
    timeout_s: float = OPENING_S
    field: str = field(default="cold_start", init=False)

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise UsageError(f"a cold start takes at least 1 repetition, not {self.repetitions}")

    def __call__(self, stage: Stage) -> ColdStartRecord:
        """Start ``stage``'s case again and again.

        Raises:
            ResnextError: what the process raised, or that it died or hung.
            GateFailed: time was up before the first pair of starts.
        """
        without: list[Start] = []
        warm: list[Start] = []
        dropped: list[bool | None] = []
        with scratch_folder() as folder:
            job, files = _job(stage, folder)
            for index in range(self.repetitions):
                if stage.deadline.over():
                    break
                stage.say(f"cold start of {stage.case}, {index + 1} of {self.repetitions}")
                caches = folder / f"caches-{index}"
                dropped.append(drop_pages(files))
                first = self._start(job, caches)
                second = self._start(job, caches)
                without.append(first)
                warm.append(second)
                remove(caches)
        if not without:
            raise stage.deadline.not_measured()
        artifact = stage.artifact
        return ColdStartRecord(
            without_caches=tuple(without),
            with_caches=tuple(warm),
            file_dropped=None if None in dropped else all(dropped),
            build_s=0.0 if artifact is None else artifact.manifest.build_s,
        )

    def _start(self, job: ColdJob, caches: Path) -> Start:
        environment = {variable: str(caches / name) for variable, name in _CACHES.items()}
        for path in environment.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        with Child(job.backend, _MODULE, environment=environment) as child:
            child.send(job.model_copy(update={"started_ns": child.started_ns}))
            return child.receive(Start, self.timeout_s)


def _job(stage: Stage, folder: Path) -> tuple[ColdJob, list[Path]]:
    """What the processes are asked, and the files that they open."""
    (images,) = stage.subject.inputs.values()
    np.save(folder / "inputs.npy", images)
    backend = stage.case.backend
    job = ColdJob(
        started_ns=0,
        library=runtime_named(backend).package,
        backend=backend,
        options=asdict(stage.options),
        artifact=None,
        inputs=str(folder / "inputs.npy"),
    )
    artifact = stage.artifact
    if artifact is not None:
        path = (artifact.path if artifact.bare else artifact.directory).absolute()
        size = None
        if artifact.bare:
            height, width = artifact.manifest.inputs[0].shape[-2:]
            size = (height, width) if height and width else None
        update = {"artifact": str(path), "input_size": size}
        return job.model_copy(update=update), _files(artifact)
    from safetensors.torch import save_file

    weights = weights_of(stage.network)
    path = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in weights.state_dict.items()}, path)
    return job.model_copy(update={"weights": str(path), "config": asdict(weights.config)}), [path]


def _files(artifact: Artifact) -> list[Path]:
    if artifact.bare:
        return [artifact.path]
    return [path for path in artifact.directory.iterdir() if path.is_file()]
