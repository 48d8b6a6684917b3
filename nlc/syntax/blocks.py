"""A mapping and the model of its keys -> its entries by key; unknown and missing keys reported."""

from __future__ import annotations

from nlc.base.diagnostics import Fix, Label, Report, nearest
from nlc.base.span import Span
from nlc.syntax.schema import EXCLUSIVE, Block, keys_of, sentence_of
from nlc.syntax.values import Entry
from nlc.syntax.yamlerrors import cut
from nlc.syntax.yamltree import Mapping, Scalar

# What other systems call it.
_SYNONYMS = {
    "name": "system",
    "version": "nlc",
    "dims": "hyper",
    "hypers": "hyper",
    "hyperparameters": "hyper",
    "params": "weights",
    "parameters": "weights",
    "every": "frequency",
    "clock": "frequency",
    "period": "frequency",
    "state": "memory",
    "loss": "objective",
    "optimizer": "rule",
    "read": "output",
}


def block(
    mapping: Mapping, model: type[Block], where: str, kind: str, at: Span, report: Report
) -> dict[str, Entry]:
    """The entries of a block under the keys they stand for; a misspelt key counts as the one meant.

    The key of another system counts as said too, but its value is not read: it has another form.
    ``where`` names this block and ``kind`` its kind (``level `M```, ``a level``); a missing key is
    reported at ``at``.
    """
    keys = keys_of(model)
    found = {k.text: Entry(k, v, where) for k, v in mapping.entries if k.text in keys}
    for key, value in mapping.entries:
        if report.full:
            break
        if key.text not in keys and not key.broken:
            _unknown(key, found, keys, where, kind, report)
            meant = nearest(cut(key.text), keys)
            other = _SYNONYMS.get(key.text)
            if meant is not None and meant not in found:
                found[meant] = Entry(key, value, where)
            elif other in keys and other not in found:
                found[other] = Entry(key, Scalar("", value.span, broken=True), where)
    for key, required in keys.items():
        if required and key not in found:
            report.add(
                "NLC102",
                f"{where} has no `{key}`, which is required",
                at,
                helps=[f"add `{key}`: {sentence_of(model, key)}"],
            )
    _exclude(found, model, where, report)
    return found


def _unknown(
    key: Scalar,
    found: dict[str, Entry],
    keys: dict[str, bool],
    where: str,
    kind: str,
    report: Report,
) -> None:
    near = nearest(cut(key.text), keys)
    other = _SYNONYMS.get(key.text)
    guess = near or (other if other in keys else None)
    missing = near is not None and near not in found
    report.add(
        "NLC101",
        f"unknown key `{cut(key.text)}` in {where}",
        key.span,
        f"did you mean `{guess}`?" if guess else f"not a key of {kind}",
        notes=[f"{where} has no `{near}`, which is required"] if missing and keys[near] else [],
        helps=[f"{kind} has: {', '.join(keys)}"],
        fix=Fix(key.span, near) if missing else None,
    )


def _exclude(found: dict[str, Entry], model: type[Block], where: str, report: Report) -> None:
    for one, other, why in EXCLUSIVE.get(model, ()):
        if one not in found or other not in found:
            continue
        first, second = sorted((found[one], found[other]), key=lambda e: e.key.span.start)
        report.add(
            "NLC105",
            f"{where} has both `{one}` and `{other}`",
            second.key.span,
            "",
            related=[Label(first.key.span, "this excludes it")],
            notes=[why],
            helps=["keep one of them"],
        )
        del found[one if found[one] is second else other]
