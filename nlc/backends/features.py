"""What the file of a token system can do without: parts that serve a need of their own, and that nothing else needs."""

from __future__ import annotations

from collections.abc import Iterable

from nlc.base.diagnostics import BadFeature, nearest

FEATURES = {
    "checks": "what is said of hypers, inputs and states that do not fit",
    "packed": "sequences packed in a batch of one, cut by `cu_seqlens`",
    "pieces": "`checkpoint`, `truncate` and `error_if_nonfinite`",
}


def known(maker: str, features: Iterable[str], has: Iterable[str]) -> frozenset[str]:
    """The features, of those that ``maker`` can leave out. BadFeature for one that it cannot."""
    if isinstance(features, str):
        raise TypeError(f"without is a list of names, as ['checks'], not {features!r}")
    asked = frozenset(features)
    for name in sorted(asked - {*FEATURES}):
        close = nearest(name, FEATURES)
        hint = f"did you mean {close!r}?" if close else f"there are: {', '.join(FEATURES)}"
        raise BadFeature(f"nothing is called {name!r} that a file can do without; {hint}")
    if asked - {*has}:
        raise BadFeature(f"{maker} leaves out none of {', '.join(sorted(asked))}")
    return asked
