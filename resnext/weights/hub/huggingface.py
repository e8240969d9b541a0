"""Files of model repositories on the Hugging Face hub, fetched by its own library.

Cache, resuming, mirrors (``HF_ENDPOINT``), tokens (``HF_TOKEN``), proxies and offline mode
(``HF_HUB_OFFLINE``) are the library's. What it raises becomes one line here, and what it logs of
its tries is left out.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resnext.errors import BadWeights, MissingRequirement, UsageError, first_line
from resnext.progress import aside
from resnext.readers.files import MOST_JSON, file_sha256, read_file
from resnext.readers.strict_json import parse_json

from .connection import connection_error
from .download import CERTIFICATE, CERTIFICATE_HINT

#: Files that a repository may have its weights in, the preferred first.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_SHA256_DIGITS = 64


class NoFile(Exception):
    """The repository has no such file, or, without a network, the cache has none.

    Attributes:
        unreachable: why the hub was not asked; None if it was.
    """

    def __init__(self, name: str, unreachable: OSError | None = None) -> None:
        super().__init__(name)
        self.unreachable = unreachable


def fetch_file(
    repository: str, revision: str | None, name: str, unreachable: OSError | None = None
) -> tuple[Path, str]:
    """One file of a repository, from the cache if it is there.

    Args:
        repository: ``OWNER/NAME``.
        revision: branch, tag or commit; None means the default branch.
        name: of the file, at the top level.
        unreachable: of the `NoFile` of another file: only the cache is asked.

    Returns:
        The file, a link in the library's cache, and the commit that it is of.

    Raises:
        NoFile: the repository has no file of that name.
        UsageError: no such repository or revision.
        MissingRequirement: the hub cannot be reached or refuses, the disk is full, or the library
            is not installed.
        BadWeights: the file does not have the digest that the hub announced.
    """
    try:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    except ImportError as exc:
        raise MissingRequirement(
            f"weights of {repository} are fetched with huggingface_hub, which is not installed",
            hint="pip install 'resnext-toolkit[hub]'",
        ) from exc
    with _translated(repository, revision, name), aside(), _quiet():
        cached = isinstance(try_to_load_from_cache(repository, name, revision=revision), str)
        if not (cached or unreachable or constants.HF_HUB_OFFLINE):
            unreachable = connection_error(constants.ENDPOINT)
        if cached or unreachable is None:
            path = Path(
                hf_hub_download(
                    repository,
                    name,
                    revision=revision,
                    library_name="resnext-toolkit",
                    local_files_only=unreachable is not None,
                )
            )
    if unreachable is not None and not cached:
        raise NoFile(name, unreachable)
    _check_digest(path)
    return path, path.parent.name


def fetch_weights(
    repository: str, revision: str | None, unreachable: OSError | None = None
) -> tuple[Path, str]:
    """The weights of a repository, a file or the index of several, and the commit.

    Arguments are those of `fetch_file`.

    Raises:
        BadWeights: it has none; and as `fetch_file`.
    """
    for name in _WEIGHTS:
        try:
            path, commit = fetch_file(repository, revision, name, unreachable)
        except NoFile as exc:
            unreachable = unreachable or exc.unreachable
            continue
        if name.endswith(".json"):
            _fetch_shards(path, repository, commit)
        return path, commit
    if unreachable is not None:
        raise _unreachable(repository, unreachable) from unreachable
    raise BadWeights(
        f"{repository} has none of the files {', '.join(_WEIGHTS)}",
        hint="fetch its weights yourself and name the file in `weights`",
    )


def _fetch_shards(index: Path, repository: str, commit: str) -> None:
    for name in _shards(index, repository):
        try:
            fetch_file(repository, commit, name)
        except NoFile as exc:
            if exc.unreachable is not None:
                raise _unreachable(repository, exc.unreachable) from exc
            raise BadWeights(
                f"{repository} has no {name}, which its {index.name} names",
                hint="choose another revision, or other weights",
            ) from exc


def _shards(index: Path, repository: str) -> list[str]:
    try:
        content = parse_json(read_file(index, MOST_JSON, BadWeights))
        names = set(content["weight_map"].values())
        if not all(isinstance(name, str) and name == Path(name).name for name in names):
            raise ValueError("its shards are not files beside it")
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise BadWeights(f"{index.name} of {repository} is not readable: {exc}") from exc
    return sorted(names)


def _check_digest(path: Path) -> None:
    """Check the file's bytes; a large file is stored under its sha256, small ones are not."""
    if not path.is_symlink():
        return
    expected = path.readlink().name
    if len(expected) == _SHA256_DIGITS and (actual := file_sha256(path)) != expected:
        raise BadWeights(
            f"{path} is damaged: its sha256 is {actual[:12]}, the hub says {expected[:12]}",
            hint=f"delete {path.resolve()} and try again",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's log off the screen, unless the user asks for more of it than usual."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if logger.getEffectiveLevel() >= logging.WARNING:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _translated(repository: str, revision: str | None, name: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as exc:
        raise MissingRequirement(
            f"{repository} is gated: its owner grants access on request",
            hint="accept its terms on its page, and set HF_TOKEN to a token of that account",
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise UsageError(
            f"there is no repository {repository}, or it is private",
            hint="check the name; for a private repository set HF_TOKEN",
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise UsageError(
            f"{repository} has no revision {revision}", hint="name a branch, tag or commit of it"
        ) from exc
    except errors.LocalEntryNotFoundError as exc:
        response = getattr(exc.__cause__, "response", None)
        if response is not None:
            raise _refused(repository, response.status_code) from exc
        raise NoFile(name, exc) from exc
    except errors.EntryNotFoundError as exc:
        raise NoFile(name) from exc
    except errors.HFValidationError as exc:
        raise UsageError(f"{repository} is no name of a repository: {first_line(exc)}") from exc
    except errors.HfHubHTTPError as exc:
        raise _refused(repository, exc.response.status_code) from exc
    except Exception as exc:  # its HTTP library, which differs between releases, or the disk
        number, file = getattr(exc, "errno", None), getattr(exc, "filename", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MissingRequirement(
                f"the disk has no room for {name} of {repository}",
                hint="free some space, or set HF_HOME to another folder",
            ) from exc
        if file is not None:
            raise MissingRequirement(
                f"cannot write {file}: {exc}", hint="set HF_HOME to another folder"
            ) from exc
        raise MissingRequirement(
            f"{name} of {repository} could not be fetched: {first_line(exc)}",
            hint="try again; behind a proxy, name it in HTTPS_PROXY",
        ) from exc


def _refused(repository: str, status: int) -> MissingRequirement:
    hint = "try again later"
    if status in (401, 403):
        hint = "set HF_TOKEN to a token that may read it"
    elif status == 407:
        hint = "give the proxy's user and password in HTTPS_PROXY"
    return MissingRequirement(f"the hub answered {status} for {repository}", hint=hint)


def _unreachable(repository: str, exc: OSError) -> MissingRequirement:
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        reason = f"{constants.ENDPOINT} cannot be reached ({first_line(exc.__cause__ or exc)})"
    if CERTIFICATE in reason:
        return MissingRequirement(reason, hint=CERTIFICATE_HINT)
    return MissingRequirement(
        f"{repository} is not in the cache and {reason}",
        hint=f"on a connected machine run hf download {repository}, and copy its cache folder to"
        f" {constants.HF_HUB_CACHE}",
    )
