"""The plan: groups of cells, each of which one machine measures whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from resnext.artifact.specs import Strict
from resnext.cluster.parcels import Parcel
from resnext.errors import BadInput, UnknownName
from resnext.version import __version__
from resnext_bench.stored import read_stored

FORMAT_VERSION = 1
#: Hexadecimal digits of a group's id.
_ID_DIGITS = 12


class ParcelRecord(Strict):
    """An artifact or checkpoint that groups name in their arguments.

    Attributes:
        path: as the arguments name it; absolute.
        digest: of its bytes, as `resnext.cluster.parcels.Parcel` has it.
        size_bytes: of all its files.
    """

    path: str
    digest: str
    size_bytes: int

    def parcel(self) -> Parcel:
        """To be sent, and checked where it arrives."""
        return Parcel(self.path, self.digest, self.size_bytes)


class Group(Strict):
    """Cells that are compared, and so measured on one machine in one run.

    Attributes:
        id: digest of what is measured: equal groups have equal ids.
        title: for people.
        arguments: of ``resnext-bench``, without those that name outputs.
        on: what a machine must have, as `resnext_bench.fleet.placement` reads it; all of it.
        each: measure it once on every kind of machine that has that.
    """

    id: str
    title: str
    arguments: tuple[str, ...]
    on: tuple[str, ...] = ()
    each: bool = False


class PlanFile(Strict):
    """What ``resnext-bench plan`` writes.

    Attributes:
        format_version: of this file; readers refuse any other.
        toolkit: version that measures it.
        parcels: files that the groups need.
        groups: in the order of ``--index``, from 0.
    """

    format_version: Literal[1] = 1
    toolkit: str
    parcels: tuple[ParcelRecord, ...] = ()
    groups: tuple[Group, ...]

    def group(self, id: str) -> Group:
        """The group of that id, or the only one whose id begins like that.

        Raises:
            UnknownName: there is none, or there are several.
        """
        found = [group for group in self.groups if group.id.startswith(id)]
        if len(found) != 1:
            raise UnknownName("group", id, [group.id for group in self.groups])
        return found[0]

    def at(self, index: int) -> Group:
        """The group of that index.

        Raises:
            BadInput: there are fewer.
        """
        if index >= len(self.groups):
            raise BadInput(
                f"`index` {index} is beyond the plan, whose groups are 0 to {len(self.groups) - 1}",
                hint=f"ask for an array of {len(self.groups)}",
            )
        return self.groups[index]


def make_plan(
    titled: Sequence[tuple[str, tuple[str, ...]]],
    paths: Sequence[Path],
    on: Sequence[str],
    *,
    each: bool,
) -> PlanFile:
    """A plan of these groups.

    Args:
        titled: title and arguments of each group.
        paths: files and folders that the arguments name and that are to travel, absolute.
        on: as in `Group`.
        each: as in `Group`.

    Raises:
        BadInput: a path cannot be read.
    """
    parcels = [
        ParcelRecord(path=str(path), digest=sent.digest, size_bytes=sent.size)
        for path in dict.fromkeys(paths)
        for sent in [Parcel.of(path)]
    ]
    groups = {}
    for title, arguments in titled:
        group = Group(id="", title=title, arguments=arguments, on=tuple(on), each=each)
        id = _id(group, parcels, __version__)
        groups[id] = group.model_copy(update={"id": id})
    return PlanFile(toolkit=__version__, parcels=tuple(parcels), groups=tuple(groups.values()))


def read_plan(path: Path) -> PlanFile:
    """Read a plan, of this or of another version of the toolkit.

    Raises:
        BadInput: missing, not a plan, or changed since it was made: its results would go by the
            ids of what was to be measured before.
    """
    plan = read_stored(path, PlanFile, "plan", FORMAT_VERSION)
    ids = [_id(group, plan.parcels, plan.toolkit) for group in plan.groups]
    if len(set(ids)) < len(ids) or ids != [group.id for group in plan.groups]:
        raise BadInput(
            f"{path} was changed after it was made: the ids of its groups do not fit",
            hint="make the plan again, with other options",
        )
    return plan


def check_toolkit(plan: PlanFile) -> None:
    """Check that this version of the toolkit is to measure ``plan``.

    Raises:
        BadInput: another one is.
    """
    if plan.toolkit != __version__:
        raise BadInput(
            f"the plan was made by resnext-toolkit {plan.toolkit}, this is {__version__}",
            hint="make the plan again",
        )


def _id(group: Group, parcels: Sequence[ParcelRecord], toolkit: str) -> str:
    digests = {record.path: record.digest for record in parcels}
    words = [digests.get(word, word) for word in group.arguments]
    content = words, sorted(group.on), group.each, toolkit
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_ID_DIGITS]
