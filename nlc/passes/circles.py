"""What leads where -> the circles in it, one for each knot of names that lead to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


def circles(leads: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """``[a, b, …]``, where each name leads to the next and the last to the first.

    The same circles in every run, each from the first of its names.
    """
    try:
        TopologicalSorter(leads).prepare()
    except CycleError:
        return _circles(leads)
    return []


def _circles(leads: Mapping[str, Iterable[str]]) -> list[list[str]]:
    import networkx as nx  # a tenth of a second to import, and most specs need none of it

    graph = nx.DiGraph((a, b) for a, others in leads.items() for b in others)
    out = []
    for part in nx.strongly_connected_components(graph):
        first = min(part)
        if len(part) > 1 or graph.has_edge(first, first):
            ring = nx.DiGraph(sorted(graph.subgraph(part).edges))
            out.append([a for a, _ in nx.find_cycle(ring, first)])
    return sorted(out)
