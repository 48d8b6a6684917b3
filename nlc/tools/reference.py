"""The words of the language, one entry each, from the tables that the compiler itself uses.

``said`` is what ``nlc explain NAME`` prints, ``markdown`` a table of the reference, docs/language.md: both are made of
the same entries. ``python -m nlc.tools.reference FILE...`` writes the tables of a document anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from nlc.base.diagnostics import nearest
from nlc.ir.classes import CLASSES, PLANS
from nlc.ir.ops import OPS
from nlc.ir.show import show
from nlc.ir.types import Dim, Range, Type
from nlc.lib.functions import FUNCTIONS, READS, Function, usage
from nlc.lib.memories import MEMORIES, MemoryKind
from nlc.lib.rules import KINDS, RULES, RuleKind
from nlc.library import shipped
from nlc.pipeline import load
from nlc.syntax.clock import FORMS, WORDS, form_of
from nlc.syntax.math import parse_text
from nlc.syntax.operators import Operator, operators
from nlc.syntax.schema import BLOCKS, Block, choices_of, example_of, keys_of, kind_of, sentence_of
from nlc.syntax.symbols import letters
from nlc.syntax.tree import SpecTree
from nlc.syntax.values import PLACED, RESERVED
from nlc.tools import samples
from nlc.tools.derivation import SIGNS
from nlc.tools.draw import READS as READ_AT
from nlc.tools.draw import TRANSFERS
from nlc.tools.layout import wrap
from nlc.tools.table import WIDTH

Facts = dict[
    str, str | list[str]
]  # by what they are called; several lines where a line is not enough


@dataclass(frozen=True)
class Entry:
    """``kind`` in words, ``usage`` as it is written. ``facts`` are the columns of its table, ``more`` only said.

    Both may compile the entry's example. ``also``: what else it is found by, the signs of an operator.
    """

    kind: str
    name: str
    usage: str
    doc: str
    facts: Callable[[], Facts] = dict
    more: Callable[[], Facts] = dict
    also: tuple[str, ...] = ()


def entries(what: str) -> list[Entry]:
    """Those of one table; ValueError if there is no such table."""
    if what not in TABLES:
        raise ValueError(f"there is no table {what!r}; tables: {', '.join(TABLES)}")
    return list(TABLES[what]())


# ------------------------------------------------------------------------------------------------ tables


def _specs() -> Iterator[Entry]:
    for name in sorted(shipped()):
        yield Entry("a shipped spec", name, name, _first_sentence(load(name).tree))


def _first_sentence(tree: SpecTree) -> str:
    """Of what a spec says of itself. A period before a number ends none: ``eq. 88``."""
    return re.split(r"(?<=\.)\s(?!\d)", tree.doc.text)[0] if tree.doc else ""


def _keys(model: type[Block]) -> Iterator[Entry]:
    for key, required in keys_of(model).items():
        takes = kind_of(model, key)
        if words := choices_of(model, key):
            takes = " or ".join(f"`{word}`" for word in words)
        example = example_of(model, key)
        facts: Facts = {
            "takes": takes,
            "example": f"`{key}: {example}`" if example else "",
            "required": "yes" if required else "",
        }
        yield Entry(
            f"a key of {BLOCKS[model]}", key, key, sentence_of(model, key), lambda f=facts: f
        )


def _functions() -> Iterator[Entry]:
    for f in (*FUNCTIONS.values(), *READS.values()):
        yield Entry("a function", f.name, usage(f.name, f.params), f.doc, lambda f=f: _of(f))


def _of(f: Function) -> Facts:
    found: Facts = {"example": f"`{f.example}`"}
    gives = samples.value(f)
    found["gives"] = described(gives) if gives is not None else "where a weight or a state starts"
    notes = []
    if f.is_:
        notes.append(f"is `{f.is_}`")
    if f.weights:
        notes.append(f"owns {' and '.join(f'`{w}`' for w in f.weights)}")
    op = OPS.get(f.op)
    if op is not None and op.vjp is None and op.size is None:
        why = f": {op.why}" if op.why else ""
        notes.append(f"not differentiable in an objective{why}")
    found["notes"] = "; ".join(notes)
    return found


def _memories() -> Iterator[Entry]:
    for m in MEMORIES.values():
        call = usage(m.name, m.params) if m.params else m.name
        more = lambda m=m: _derived(m.example, m.context == "gradients")  # noqa: E731
        yield Entry("a memory", m.name, call, m.doc, lambda m=m: _stored(m), more)


def _stored(m: MemoryKind) -> Facts:
    """Its tensors and its read; what a switch brings stands in brackets."""
    states = [f"{'M.' * bool(k)}{k or 'M'} {_optional(shape)}" for k, shape in m.states.items()]
    read = _optional(m.read).replace("self", "M")
    facts: Facts = {
        "tensors": ", ".join(f"`{s}`" for s in states),
        "M(z)": f"`{read}`" if read else "attention" if m.name == "cache" else "",
        "in": {"gradients": "gradients, layers"}.get(m.context, m.context)
        or "tokens, gradients, layers",
    }
    return facts


def _optional(text: str) -> str:
    return re.sub(r"\{(\w+): (.*?)\}", r"⟮\2⟯", text)


def _derived(level: str, gradients: bool = False) -> Facts:
    lines = samples.derived(level, gradients)
    return {"example": level.splitlines(), **({"derived": lines} if lines else {})}


def _rules() -> Iterator[Entry]:
    for r in RULES.values():
        level = _LEARNED + f"rule: {r.example}"
        more = lambda level=level: _derived(level)  # noqa: E731
        yield Entry("a rule", r.name, usage(r.name, r.params), r.doc, lambda r=r: _step(r), more)
    for name in sorted(
        shipped()
    ):  # every gradient system is a rule too: its hypers are the arguments
        tree = load(name).tree
        if tree.context.text == "gradients":
            call = f"{name}({', '.join(h.name for h in tree.hyper)})"
            yield Entry("a rule", name, call, _first_sentence(tree))


_LEARNED = "frequency: every token\nmemory: matrix(n, n)\nobjective: 0.5 * sqnorm(M(k) - v)\n"


def _step(r: RuleKind) -> Facts:
    step = samples.step(_LEARNED + f"rule: {r.example}")
    return {"example": f"`{r.example}`", "the step then": " and ".join(f"`{x}`" for x in step)}


def _operators() -> Iterator[Entry]:
    every = operators()
    known = {symbol for o in every for symbol in o.symbols}
    for o in every:
        brackets = (c for c in o.example if not c.isalnum() and c != " " and c not in known)
        signs = o.symbols or tuple(dict.fromkeys(brackets))
        yield Entry("an operator", o.name, o.example, o.doc, lambda o=o: _read(o), also=signs)


def _read(o: Operator) -> Facts:
    others = o.symbols[1:] if o.symbols else ()
    plain = show(parse_text(o.example))
    return {
        "also": ", ".join(f"`{s}`" for s in others),
        "is": f"`{plain}`" if plain != o.example else "",
        "binds like": o.binds,
    }


def _clocks() -> Iterator[Entry]:
    for form, doc in FORMS.items():
        yield Entry("a clock", form, form, doc, also=tuple(w for w in form.split() if w in WORDS))


def _signs() -> Iterator[Entry]:
    for sign, doc in SIGNS.items():
        parts = tuple(dict.fromkeys(c for c in sign if not c.isalnum() and not c.isascii()))
        yield Entry("a sign of derivations", sign, sign, doc, also=parts)


def _plain(kind: str, table: dict[str, str]) -> Callable[[], Iterator[Entry]]:
    return lambda: (Entry(kind, name, name, doc) for name, doc in table.items())


def _block(name: str) -> Callable[[], Iterator[Entry]]:
    model = next(m for m, said in BLOCKS.items() if said == name)
    return lambda: _keys(model)


def _letters() -> Iterator[Entry]:
    for kind, small in (("small letters", True), ("capitals", False)):
        found = {ch: name for ch, name in letters().items() if name.islower() == small}
        yield Entry("Greek", kind, " ".join(found), ", ".join(dict.fromkeys(found.values())))


TABLES: dict[str, Callable[[], Iterator[Entry]]] = {
    "specs": _specs,
    "keys": _block("a spec"),
    "level-keys": _block("a level"),
    "weight-keys": _block("a weight"),
    "reset-keys": _block("a reset"),
    "memory-keys": _block("a memory written out"),
    "family-keys": _block("a member of a family"),
    "route-keys": _block("a route"),
    "functions": _functions,
    "memories": _memories,
    "rules": _rules,
    "tensors": lambda: (Entry("a kind of tensor", r.name, r.name, r.doc) for r in KINDS.values()),
    "clocks": _clocks,
    "classes": _plain("a class of levels", CLASSES),
    "plans": _plain("a plan", PLANS),
    "reads": _plain("a kind of edge, by when it reads", READ_AT),
    "transfers": _plain("a kind of edge, by what it passes on", TRANSFERS),
    "signs": _signs,
    "words": _plain("a reserved word", RESERVED),
    "operators": _operators,
    "letters": _letters,
    "names": _plain("a name of the examples", samples.NAMES),
}


def described(type: Type) -> str:
    """``[n] per head, from 0 to 1``."""
    dims = tuple(
        d.substitute(samples.PER_HEAD) if isinstance(d, Dim) and "heads" in d.symbols else d
        for d in type.dims
    )
    shape = replace(type, head=False, dims=dims).shape()
    what = "a number" if shape == "[]" else f"`{shape}`"
    return what + (" per head" if type.head else "") + _bounds(type.range, shape != "[]")


def _bounds(r: Range, long: bool) -> str:
    out = ""
    if r.low == r.high:
        out = f", {r.low:.3g}"
    elif r.low > -inf and r.high < inf and not (long and r.norm <= 1 and r.low == -r.high):
        out = f", from {r.low:.3g} to {r.high:.3g}"
    elif r.low > -inf and r.high == inf:
        out = f", at least {r.low:.3g}"
    elif r.high < inf and r.low == -inf:
        out = f", at most {r.high:.3g}"
    return out + (f", norm at most {r.norm:.3g}" if long and r.norm < inf else "")


# ------------------------------------------------------------------------------------------------ printed


def find(name: str) -> list[Entry]:
    """Everything that a name means: ``anchor`` is a key and a function, ``every 4 tokens`` a clock."""
    every = [e for what in TABLES if what not in _NO_WORDS for e in entries(what)]
    found = [e for e in every if name in (e.name, e.usage, *e.also)] or [
        e for e in every if e.kind == "a clock" and e.name == form_of(name)
    ]
    functions = {e.name for e in found if e.kind == "a function"}
    found = [e for e in found if e.kind != "a reserved word" or e.name not in functions]
    return found + [e for e in _said_in_a_place(every) if e.name == name]


def meant(name: str) -> str | None:
    """The word that a name which is none most likely misspells."""
    words = [e for w in TABLES if w not in _NO_WORDS for e in entries(w)]
    return nearest(name, [e.name for e in (*words, *_said_in_a_place(words))])


def _said_in_a_place(every: list[Entry]) -> list[Entry]:
    """What means something in one place only and has no table of its own: named arguments, and `PLACED`."""
    takers: dict[str, list[Entry]] = {}
    kinds = ("a rule", "a function", "a memory")
    for taker in sorted((e for e in every if e.kind in kinds), key=lambda e: kinds.index(e.kind)):
        inside = taker.usage.partition("(")[2].removesuffix(")")
        named = taker.kind == "a rule" or "=" in inside
        for argument in inside.split(", ") if named and inside else ():
            name, default, _ = argument.partition("=")
            if default or taker.kind == "a rule":
                takers.setdefault(name, []).append(taker)
    out = [Entry("a word", name, name, doc) for name, doc in PLACED.items()]
    for name, found in takers.items():
        more = f" and {len(found) - _TAKERS} more" if len(found) > _TAKERS else ""
        doc = f"of {', '.join(f'`{t.name}`' for t in found[:_TAKERS])}{more}"
        said = {t.name: f"`{t.usage}`: {t.doc}" for t in found[:_TAKERS]}
        out.append(Entry("an argument", name, name, doc, more=lambda said=said: said))
    return out


_TAKERS = 6  # of one argument that are shown
_NO_WORDS = ("specs", "names", "letters")


def said(entry: Entry) -> str:
    """An entry for a terminal."""
    out = [f"{entry.usage}: {entry.kind}", *wrap(_terminal(entry.doc), WIDTH), ""]
    facts = {k: v for k, v in {**entry.facts(), **entry.more()}.items() if v}
    wide = max((len(key) for key in facts), default=0)
    for key, value in facts.items():
        lines = value if isinstance(value, list) else wrap(_terminal(value), WIDTH - wide - 4)
        out += [f"  {key if i == 0 else '':<{wide}}  {x}" for i, x in enumerate(lines)]
    return "\n".join(line.rstrip() for line in out).rstrip()


def _terminal(text: str) -> str:
    """Without the marks of Markdown."""
    return re.sub(r"`([^`]*)`", r"\1", text)


def asdict(entry: Entry) -> dict[str, object]:
    facts = {**entry.facts(), **entry.more()}
    plain = {k: _terminal(v) if isinstance(v, str) else v for k, v in facts.items() if v}
    return {"name": entry.name, "kind": entry.kind, "usage": entry.usage, "doc": entry.doc, **plain}


def markdown(what: str) -> str:
    """A table of entries as the reference has it; columns that are empty throughout are left out."""
    found = entries(what)
    rows = [{"": f"`{e.usage}`", "what it is": e.doc, **e.facts()} for e in found]
    columns = [
        c for c in dict.fromkeys(k for row in rows for k in row) if any(r.get(c) for r in rows)
    ]
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: str | list[str]) -> str:
    text = value if isinstance(value, str) else "; ".join(value)
    return text.replace("|", "\\|")


_MARKED = re.compile(
    r"(?P<head><!-- nlc list (?P<what>[\w-]+) --format markdown -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def filled(text: str) -> str:
    """A document with its tables written anew: each stands between the command that prints it and ``end``."""
    return _MARKED.sub(lambda m: f"{m['head']}{markdown(m['what'])}\n{m['end']}", text)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
