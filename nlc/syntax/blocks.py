"""A mapping and the model of its keys -> its entries by key; unknown and missing keys reported."""

from __future__ import annotations

import re
from collections.abc import Hashable

from nlc.base.diagnostics import Fix, Label, Report, certain, nearest, place
from nlc.base.span import Span
from nlc.syntax.foreign import BELONGS, KEYS
from nlc.syntax.schema import EXCLUSIVE, Block, keys_of, sentence_of
from nlc.syntax.values import Entry
from nlc.syntax.yamlnodes import Mapping, Node, Scalar, Sequence
from nlc.syntax.yamlplace import cut

_BLOCKS = ("hyper", "inputs", "outputs", "weights", "clocks", "use", "let", "levels")

# How a key that is missing is written.
_EXAMPLES = {
    "nlc": "add `nlc: 1`, the version of the language",
    "system": "add `system: NAME`, as a rule the name of the file",
    "context": "add `context: tokens`, or `context: gradients` for an optimizer",
}
_LOOP = re.compile(r"for\s+(\w+)\s+in\s+(\S.*)")
_EVERY = re.compile(r"\s*(every|infinite|never)\b")
_PERIOD = re.compile(r"(\S+ )?(token|step)s?")


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
    strange = False  # whether a key may stand for any other
    for key, value in mapping.entries:
        if report.full:
            break
        if key.text not in keys and not key.broken:
            causes = [] if strange else [("meant", place(at))]  # what is missing may be meant
            meant = _unknown(key, value, found, keys, where, kind, causes, report)
            strange = strange or meant is None
            if meant is not None and meant not in found:
                same = meant not in KEYS.get(key.text, ()) or _takes(meant, value)
                node = value if same else Scalar("", value.span, broken=True)
                found[meant] = Entry(key, node, where)
    for key, required in keys.items():
        if required and key not in found and not strange:
            report.add(
                "NLC102",
                f"{where} has no `{key}`, which is required",
                at,
                helps=[_EXAMPLES.get(key) or f"add `{key}`: {sentence_of(model, key)}"],
            )
    _exclude(found, model, where, report)
    return found


def _unknown(
    key: Scalar,
    value: Node,
    found: dict[str, Entry],
    keys: dict[str, bool],
    where: str,
    kind: str,
    causes: list[Hashable],
    report: Report,
) -> str | None:
    """Reports a key that the block does not have; the one that it probably stands for.

    ``causes`` are those of a key that stands for none.
    """
    other = next((k for k in KEYS.get(key.text, ()) if k in keys), None)
    near = other or nearest(cut(key.text), keys)
    missing = near is not None and near not in found
    fix = None
    if missing:
        alien = near == other
        fix = _renamed(key, value, near) if alien else certain(key.span, key.text, keys)
    known = f"{kind} has: {', '.join(keys)}"
    if fix is not None and fix.replacement != near:  # its value is written in another way too
        known = f"write `{fix.replacement}`"
    belongs = BELONGS.get(key.text) if kind == "a level" and not near else None
    if loop := _LOOP.fullmatch(key.text):
        belongs = f"write `for: {{{loop[1]}: {loop[2]}}}`"
    report.add(
        "NLC101",
        f"unknown key `{cut(key.text)}` in {where}",
        key.span,
        f"did you mean `{near}`?" if near else f"not a key of {kind}",
        notes=[f"{where} has no `{near}`, which is required"] if missing and keys[near] else [],
        helps=[belongs.replace("{level}", _name(where))] if belongs else [known],
        fix=fix,
        causes=[] if near else causes,
    )
    return near


def _name(where: str) -> str:
    return where.partition("`")[2].partition("[")[0].rstrip("`")


def _renamed(key: Scalar, value: Node, meant: str) -> Fix | None:
    """The key of another language under our name, where the value has a form that ours takes too."""
    if _takes(meant, value):
        return Fix(key.span, meant)
    period = meant == "frequency" and isinstance(value, Scalar) and not value.style
    if period and _PERIOD.fullmatch(value.text):
        return Fix(key.span.to(value.span), f"frequency: every {value.text}")
    return None


def _takes(key: str, value: Node) -> bool:
    """Whether one of our keys takes a value of this form."""
    if isinstance(value, Mapping):
        simple = all(isinstance(v, Scalar) for _, v in value.entries)
        return key == "for" or (key == "hyper" and simple and not value.flow)
    if isinstance(value, Sequence):
        return key == "shape"
    if not isinstance(value, Scalar) or not value.text or value.broken:
        return False
    return key not in _BLOCKS and (key != "frequency" or _EVERY.match(value.text) is not None)


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
