"""A repository examined on a real server: ours for the occasion, or the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from resnext.artifact.files import Artifact
from resnext.errors import BadInput, SessionFailed, UsageError
from resnext.findings import Finding

from .environment import Installation
from .left_out import left_out, with_code, with_ensembles
from .network_exam import Examined, examine_network, transport_to
from .picture_exam import examine_pictures, network_of
from .resolved import silent_changes
from .served import Served, read_model
from .server import RepositoryRefused, Server, served
from .staging import on_cpus
from .stand_in import own_backends, stand_ins
from .wire import Wire, config_over_http


def examine_here(
    root: Path,
    installation: Installation,
    say: Callable[[str], None] = lambda _: None,
    *,
    code: bool = False,
) -> Examined:
    """Load a repository into a server on this machine, and examine every model.

    Args:
        root: the repository.
        installation: the server.
        say: called with one line before each step.
        code: load models that bring code of others, too.

    Raises:
        MissingRequirement, NeverReturned: the server cannot be started.
    """
    models, found = _models(root), Examined()
    stood_in = stand_ins(_backends(models), installation)
    chosen: tuple[str, ...] | None = None
    without = {} if code else with_code(root)
    if installation.stub is not None:  # a whole server has what its users need
        without = left_out(root, models, own_backends(installation), stood_in) | without
    if without:
        without = with_ensembles(without, models)
        found.unchecked += [f"{name}: not loaded here: {why}" for name, why in without.items()]
        models = {name: model for name, model in models.items() if name not in without}
        chosen = tuple(it.name for it in _folders(root) if it.name not in without)
    if chosen == ():
        return found
    say("starting the Triton server, and loading the repository")
    try:
        with (
            on_cpus(root, models, stood_in) as (folder, moved),
            served(folder, _backends(models), installation, models=chosen) as server,
        ):
            models |= {name: model for name, model in _models(folder).items() if name in moved}
            runners = {runner.name: runner for runner in server.backends}
            found.lines.append(f"core: {server.title}")
            found.lines += [runner.title for runner in server.backends]
            found.unchecked += [runner.caveat for runner in server.backends if runner.caveat]
            found.lines += [
                f"{name}: KIND_CPU for KIND_GPU, as our stand-in runs" for name in moved
            ]
            for model in models.values():
                found.findings += _not_warmed(model, server)
            computing = {
                name
                for name, model in models.items()
                if model.backend not in runners or runners[model.backend].computes
            }
            found.add(_examine(models, server.grpc, computing, say, server.ended))
    except RepositoryRefused as exc:
        found.findings += exc.findings
    return found


def examine_there(root: Path, url: str, say: Callable[[str], None] = lambda _: None) -> Examined:
    """Examine a repository on a server that has loaded it.

    Args:
        root: the repository as it was written.
        url: of the server: ``http://HOST:PORT``, or ``grpc://HOST:PORT``, which shows more.
        say: called with one line before each step.

    Raises:
        UsageError: no such URL.
        SessionFailed: nothing answers there.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc") or not parts.netloc or parts.path.strip("/"):
        raise UsageError(f"`url` {url[:100]!r} is not http://HOST:PORT or grpc://HOST:PORT")
    url, models, found = url.rstrip("/"), _models(root), Examined()
    with closing(transport_to(f"{url}/server")) as transport:
        told = transport.server()  # an error if nothing answers
    found.lines.append(f"core: {told.name} {told.version} at {url}".replace("  ", " "))
    found.add(_examine(models, url, set(models), say))
    found.unchecked.append("whether warm-up samples ran, which only the server's log says")
    return found


def _models(root: Path) -> dict[str, Served]:
    """The models whose configuration can be read; the rules speak of the others."""
    read = {folder.name: read_model(folder) for folder in _folders(root)}
    return {name: model for name, model in read.items() if not isinstance(model, Finding)}


def _folders(root: Path) -> Sequence[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _backends(models: Mapping[str, Served]) -> Sequence[str]:
    names = {model.backend for model in models.values()}
    return sorted(names - {"", "ensemble"})


def _not_warmed(model: Served, server: Server) -> Iterator[Finding]:
    """Warm-up samples of a configuration that the server did not run."""
    ran = server.warmed.get(model.name, ())
    for index, sample in enumerate(model.config.model_warmup):
        if sample.name not in ran:
            yield Finding(
                "warmup-not-run",
                f"the server did not run the warm-up sample {sample.name!r}",
                "give each sample a batch_size, and a name that no other has",
                where=model.at("model_warmup", index),
            )


def _examine(
    models: Mapping[str, Served],
    server: str,
    computing: set[str],
    say: Callable[[str], None],
    ended: Callable[[], str] = lambda: "",
) -> Examined:
    """Every model in turn, as long as the server runs."""
    found = Examined()
    with _wired(server) as wire:
        ask = partial(config_over_http, server) if wire is None else wire.config
        for model in models.values():
            say(f"examining {model.name} on the server")
            try:
                told = ask(model.name)
                found.findings += silent_changes(model, told)
                found.add(_examine_model(model, models, server, wire, computing))
            except (SessionFailed, BadInput) as exc:
                if why := ended():
                    found.findings.append(Finding("server-ended", f"{why}; {exc}"))
                    break
                found.findings.append(Finding("exam-failed", str(exc), where=model.name))
    return found


def _examine_model(
    model: Served,
    models: Mapping[str, Served],
    server: str,
    wire: Wire | None,
    computing: set[str],
) -> Examined:
    if (behind := network_of(model, models)) is not None:
        if wire is None:
            return Examined(unchecked=[f"{model.name}: pictures: give a grpc:// URL"])
        return examine_pictures(model, behind, wire)
    artifact = _artifact(model)
    if artifact is None and any(
        step.model_name == model.name and network_of(other, models) is not None
        for other in models.values()
        for step in other.config.ensemble_scheduling.step
    ):
        return Examined()  # with the ensemble
    if artifact is None:
        return Examined(unchecked=[f"{model.name}: nothing beside it says what it should compute"])
    return examine_network(
        model, artifact, f"{server}/{model.name}", wire=wire, computes=model.name in computing
    )


def _artifact(model: Served) -> Artifact | None:
    """The artifact of the newest version, which a server chooses."""
    numbers = sorted(number for number, it in model.tensors.items() if it.artifact is not None)
    return model.tensors[numbers[-1]].artifact if numbers else None


@contextmanager
def _wired(server: str) -> Iterator[Wire | None]:
    if not server.startswith("grpc://"):
        yield None
        return
    wire = Wire(server)
    try:
        yield wire
    finally:
        wire.close()
