"""Edges of a level graph -> few lines that say the same: who reads whom, where many read many."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nlc.tools.draw import Component, Edge

    Bundle = tuple[tuple[Component, ...], tuple[Component, ...], Edge]


def bundles(edges: tuple[Edge, ...]) -> list[Bundle]:
    """The edges as few sets of sources and of targets between which each edge is there.

    The edges of a bundle read and transfer alike; the third item is the first of them. The largest
    is taken first, of equal ones the earlier, until no edge is left; none is in two bundles.
    """
    place = {edge: i for i, edge in enumerate(edges)}
    alike: dict[
        tuple[tuple[str, ...], tuple[str, ...]], dict[Component, dict[Component, Edge]]
    ] = {}
    for e in edges:
        left = alike.setdefault((e.reads, e.transfer), {})
        left.setdefault(e.source, {})[e.target] = e
    found: list[Bundle] = []
    for left in alike.values():
        while any(left.values()):
            a, b = _largest(left)
            found.append((a, b, left[a[0]][b[0]]))
            for source in a:
                left[source] = {c: e for c, e in left[source].items() if c not in b}
    return sorted(found, key=lambda bundle: place[bundle[2]])


def _largest(
    left: dict[Component, dict[Component, Edge]],
) -> tuple[tuple[Component, ...], tuple[Component, ...]]:
    """Sources that share targets, and those targets, with as many edges between them as can be
    found: targets of one source, or those that two share."""
    shared = [
        tuple(c for c in one if c in other)
        for one, other in combinations_with_replacement(left.values(), 2)
    ]
    bundles = (
        (tuple(source for source, ends in left.items() if all(c in ends for c in b)), b)
        for b in dict.fromkeys(shared)
        if b
    )
    return max(bundles, key=lambda bundle: len(bundle[0]) * len(bundle[1]))
