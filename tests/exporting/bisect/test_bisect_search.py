"""The search for the blocks to keep, with builds that are fakes."""

from __future__ import annotations

import math
from collections.abc import Collection

import pytest

from resnext_export.bisect.search import by_worth, most_builds, shortest_prefix, without_spares


class Builds:
    """A network that meets its gate if enough of its bad blocks are kept."""

    def __init__(self, bad: Collection[str]) -> None:
        self.bad, self.built = set(bad), list[tuple[str, ...]]()

    def __call__(self, kept: tuple[str, ...]) -> bool:
        self.built.append(kept)
        return self.bad <= set(kept)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 33])
def test_every_shortest_prefix_is_found_in_about_log2_builds(count: int) -> None:
    order = [f"layer{index}.0" for index in range(count)]
    for length in range(1, count + 1):
        builds = Builds(order[:length])
        found = shortest_prefix(order, builds)
        assert found == (tuple(order[:length]) if length < count else None)
        assert len(builds.built) <= most_builds(count)
        assert len(set(builds.built)) == len(builds.built)
        assert not {(), tuple(order)} & set(builds.built)
    assert most_builds(count) <= 1 + math.ceil(math.log2(count))


@pytest.mark.parametrize("count", [16, 33])
def test_one_bad_block_that_is_ranked_first_takes_one_build(count: int) -> None:
    order = [f"layer{index}.0" for index in range(count)]
    builds = Builds(order[:1])
    assert shortest_prefix(order, builds) == (order[0],)
    assert builds.built == [(order[0],)]


def test_what_nothing_mends_is_given_up() -> None:
    order = [f"layer{index}.0" for index in range(16)]
    builds = Builds(["elsewhere"])
    assert shortest_prefix(order, builds) is None
    assert len(builds.built) <= most_builds(16)


def test_members_that_are_not_needed_are_dropped_dearest_first() -> None:
    kept = ("a", "b", "c", "d", "last")
    price = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0, "last": 9.0}
    builds = Builds(["c", "last"])
    assert without_spares(kept, price, builds, needed=1) == ("c", "last")
    assert set(kept) - set(builds.built[0]) == {"b"}
    assert "last" in set.intersection(*map(set, builds.built))
    assert without_spares(kept, price, Builds(["c"])) == ("a", "c")  # four tries at most


def test_few_builds_go_into_dropping() -> None:
    kept = tuple(f"layer{index}.0" for index in range(33))
    builds = Builds(kept)
    assert without_spares(kept, dict.fromkeys(kept, 1.0), builds) == kept
    assert len(builds.built) == 4


def test_the_order_is_by_squared_damage_over_price() -> None:
    damage = {"dear": 3.0, "cheap": 2.0, "sound": 0.0, "bad": 50.0}
    price = {"dear": 9.0, "cheap": 1.0, "sound": 0.001, "bad": 10.0}
    assert by_worth(damage, price) == ("bad", "cheap", "dear", "sound")
