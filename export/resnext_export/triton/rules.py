"""Everything about a repository that can be said without a server.

The server refuses some of it without a line, and serves the rest in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from resnext.artifact.manifest import MANIFEST_NAME
from resnext.errors import BadInput, UsageError
from resnext.findings import Finding
from resnext.readers.files import exists, is_folder

from . import batch_rules, ensemble_rules, file_rules, tensor_rules, warmup_rules
from .config import CONFIG_NAME
from .served import Served, model_config_class, read_model, version_numbers

Rule: TypeAlias = Callable[[Served], Iterator[Finding]]

#: What is checked of each model by itself.
RULES: tuple[Rule, ...] = (
    *file_rules.RULES,
    *batch_rules.RULES,
    *tensor_rules.RULES,
    *warmup_rules.RULES,
)


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        models: names of all models.
        findings: what is wrong, by model.
        unchecked: what could not be checked, and why.
    """

    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]

    @property
    def refused(self) -> tuple[Finding, ...]:
        """The findings that are no mere warnings."""
        return tuple(each for each in self.findings if each.severity == "refused")


def check_repository(root: Path) -> Checked:
    """Check every model of a repository.

    Args:
        root: the folder that ``tritonserver --model-repository`` gets.

    Raises:
        BadInput: there is no such folder, or no model in it.
        UsageError: it is a model's folder, or an artifact's.
        MissingRequirement: tritonclient is not installed.
    """
    model_config_class()
    if not is_folder(root):
        raise BadInput(f"no folder at {root}")
    if exists(root / CONFIG_NAME) or exists(root / MANIFEST_NAME):
        raise UsageError(
            f"{root} is a model, and a repository is the folder around models",
            hint=f"name {root.absolute().parent}",
        )
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not any(exists(folder / CONFIG_NAME) or version_numbers(folder) for folder in folders):
        hint = f"a model is a folder with a {CONFIG_NAME}, or with a version folder, such as 1"
        raise BadInput(f"there is no model in {root}", hint=hint)
    findings: list[Finding] = []
    models: dict[str, Served] = {}
    for folder in folders:
        read = read_model(folder)
        if isinstance(read, Finding):
            findings.append(read)
            continue
        models[folder.name] = read
        findings += read.damaged
        findings += [finding for rule in RULES for finding in rule(read)]
    unread = {folder.name for folder in folders} - models.keys()
    for model in models.values():
        findings += ensemble_rules.check_ensemble(model, models, unread)
    return Checked(
        tuple(folder.name for folder in folders),
        tuple(findings),
        tuple(line for model in models.values() for line in model.unchecked),
    )
