"""A repository for GPUs on a server that has stand-ins only, which run on CPUs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from resnext.storage import scratch_folder

from .config import CONFIG_NAME
from .served import Served

#: Which GPUs an instance is on.
_GPUS = re.compile(r"\bgpus\s*:\s*(\[[^\]]*\]|\d+)")
_ON_GPU = re.compile(rf"\bKIND_GPU\b|{_GPUS.pattern}")


@contextmanager
def on_cpus(
    root: Path, models: Mapping[str, Served], backends: Collection[str]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The same repository with instances on CPUs for the models of some backends.

    Args:
        root: the repository, which stays as it is.
        models: its models.
        backends: names of the backends that run on CPUs only.

    Yields:
        A folder that links to the files of the repository, or the repository itself if nothing is
        to be changed; and the names of the models that were changed.
    """
    moved = tuple(
        name
        for name, model in models.items()
        if model.backend in backends and _ON_GPU.search(model.text)
    )
    if not moved:
        yield root.resolve(), ()
        return
    with scratch_folder() as folder:
        for source in root.resolve().iterdir():
            if source.name not in moved:
                (folder / source.name).symlink_to(source)
                continue
            (folder / source.name).mkdir()
            for path in source.iterdir():
                (folder / source.name / path.name).symlink_to(path)
            config = folder / source.name / CONFIG_NAME
            config.unlink()
            text = _GPUS.sub("", models[source.name].text.replace("KIND_GPU", "KIND_CPU"))
            config.write_text(text, encoding="utf-8")
        yield folder, moved
