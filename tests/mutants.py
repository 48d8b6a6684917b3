"""Good and bad specs changed at random: character by character, through the tree of keys, through bytes.

``mutant(seed)`` is the same text for the same seed, on every machine.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from language_specs import SPECS as LANGUAGE
from random_systems import random_system

ROOT = Path(__file__).parents[1]


def _texts(folder: str, pattern: str = "*.yaml") -> dict[str, str]:
    found = sorted(ROOT.joinpath(folder).rglob(pattern))
    return {p.stem: p.read_text(encoding="utf-8", errors="replace") for p in found}


GOOD = [*_texts("specs").values(), *_texts("examples").values(), *LANGUAGE.values()]
_KNOWN = frozenset(GOOD)  # which are read again and again
SEEDS = [*GOOD, *_texts("tests/bad").values()]

WORDS = (
    "nlc system context doc ref hyper heads inputs outputs weights clocks use let levels output"
    " applies_to frequency memory key value objective rule update retain toward project anchor init"
    " reset through backprop for is every token tokens step steps per infinite never matrix vector"
    " scalar like cache W S M x d q k v g t pos head gd dgd prox lr decay exact true false linear"
    " conv split merge prev stop grad sum mean last max dot sqnorm norm outer per_key softmax none"
    " where slice rotary learned zeros shape uniform normal gradients layers lambda class self None"
).split()
FUNCTIONS = (
    "prev anchor stop tanh silu gelu relu sigmoid exp log sqrt abs sign softplus softmax l2norm norm"
    " sqnorm sum mean max last rmsnorm layernorm linear conv split merge rotary per_key per_value"
    " newton_schulz inv_root eigh_basis qr nrows ncols numel huber substeps grad -"
).split()
NUMBERS = "0 1 2 3 -1 1e9 1e400 0.5 inf 99999999999999999999 1e-320 7".split()
SYMBOLS = "{}[]()&*!|>%@`?-:,#\"'\\ \n\t^=+.<>/$;~aZ0179_α²‖⟨½\u00a0\u2028\x00\x1b\ufeff🦆"
CONFUSABLES = str.maketrans(  # what looks like ASCII, or normalises to it, and is not
    "aeopxdSMk(*-=:'.,2 ", "аеорхｄＳМκ（∗−＝：’․，²\u2003"
)
ENDINGS = "_2 _rows _product _total _ratio _difference _sum _lr _init _held _prev _anchor _grad _end".split()
CLOCKS = (
    "every token|every 2 tokens|every 3 tokens|every 0 tokens|every d tokens|infinite|2 per token"
    "|every 7 tokens|every step|every 2 steps|never|every episode|learned|every 1e3 tokens"
).split("|")
VALUES = {
    "frequency": CLOCKS,
    "anchor": CLOCKS,
    "reset": [*CLOCKS, "{every: 2 tokens, to: 0.5}", "{every: token, rule: true}"],
    "memory": (
        "matrix(d, d)|vector(d)|scalar|like(W)|rows(W)|cols(W)|gram(W, left)|mlp(d, 2)|matrix(n, n)"
        "|cache()|cache(window=4)|mlp(d, 2, act=tanh, bias=true)|mlp(n, 1, residual=false)"
    ).split("|"),
    "rule": (
        "gd(lr=0.1)|dgd(lr=0.1)|prox(lr=0.1)|momentum(lr=0.1, beta=0.9)|adamw(lr=0.1)|gd(lr=0.1, decay=0.9)"
        "|muon(lr=0.1)|lookahead(lr=0.1)|sgd(lr=lr)|adam(lr=1e-3)|dgd(lr=0.1, exact=true)|lion(lr=0.1)"
    ).split("|"),
    "init": ["learned", "zeros", "0.1", "learned(0.3)", "W", "normal(0.1)", "identity"],
    "backprop": ["none", "through"],
    "phase": ["start", "end"],
    "heads": ["1", "2", "4", "d", "0", "d / 3", "64"],
    "context": ["tokens", "gradients", "layers"],
}

# ---------------------------------------------------------------------------------------- characters

_TOKENS = re.compile(r"\w+|[^\w\s]|\s+")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
_OPERATOR = re.compile(r" [-+*/@] |\*\*|, | == ")
_OPERATORS = (" + ", " - ", " * ", " / ", " @ ", "**", ", ", " == ", ".")


def edited(rng: random.Random, text: str) -> str:
    """One edit: of a character, a token, a line, a piece, or of everything behind a place."""
    kind = rng.choice("eeeeeeeeeeennnncctllkksrxu")
    at = rng.randrange(len(text) + 1)
    if kind == "c":
        cut = rng.choice([0, 0, 1, 1, 4])
        return text[:at] + rng.choice(SYMBOLS) * rng.choice([0, 1, 1]) + text[at + cut :]
    if kind == "u":
        width = rng.choice([1, 1, 4, 40])
        return text[:at] + text[at : at + width].translate(CONFUSABLES) + text[at + width :]
    if kind == "e":
        return _within(rng, text)
    if kind in "tn":
        tokens = _TOKENS.findall(text)
        if not tokens:
            return text
        i = rng.randrange(len(tokens))
        new = rng.choice(NUMBERS if kind == "n" else [*WORDS, *tokens])
        if kind == "n":
            numbers = [j for j, token in enumerate(tokens) if token.isdigit()]
            i = rng.choice(numbers) if numbers else i
        tokens[i] = rng.choice([new, new, new, "", f"{tokens[i]} {new}", f"{tokens[i]}({new})"])
        return "".join(tokens)
    lines = text.splitlines(keepends=True)
    if kind in "lk" and lines:
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        if kind == "k":
            del lines[i : i + rng.choice([1, 1, 3])]
        elif rng.random() < 0.5:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines.insert(i, rng.choice([" ", "    ", ""]) + lines[j])
        return "".join(lines)
    if kind == "s":
        other = rng.choice(SEEDS)
        start = rng.randrange(len(other))
        return text[:at] + other[start : start + rng.choice([5, 40, 400])] + text[at:]
    if kind == "x":
        return text[:at]
    noise = bytes(rng.randrange(256) for _ in range(rng.choice([1, 3, 20])))
    return text[:at] + noise.decode("latin-1") + text[at:]


def _within(rng: random.Random, text: str) -> str:
    """An edit that YAML does not see: of a name, an operator or an argument on the right of a key."""
    places = [m.span() for m in re.finditer(r"(?<=: )[^\s#].*?(?=$| +#)", text, re.MULTILINE)]
    if not places:
        return text
    start, end = rng.choice(places)
    value = text[start:end]
    return text[:start] + expression(rng, value, WORDS) + text[end:]


def expression(rng: random.Random, value: str, words: list[str]) -> str:
    """An expression with one name, operator or number exchanged, or wrapped in a function."""
    pattern, words = rng.choice(
        [
            (_NAME, words),
            (_NAME, _NAME.findall(value)),
            (_OPERATOR, _OPERATORS),
            (_NUMBER, NUMBERS),
        ]
    )
    found = list(pattern.finditer(value))
    if not found:
        return value
    old, new = rng.choice(found), rng.choice(words)
    if pattern is _NAME:
        f = rng.choice(FUNCTIONS)
        forms = [new] * 6 + [f"{new}({old[0]})", f"{f}({old[0]})", f"{old[0]}.T"]
        new = rng.choice(forms)
    return value[: old.start()] + new + value[old.end() :]


# ---------------------------------------------------------------------------------------------- keys

Tree = dict[str, Any]


def tree_of(text: str) -> Tree | None:
    """The keys of a text, every value as it is written; None where YAML reads no mapping."""
    return _copied(_good(text)) if text in _KNOWN else _read(text)


@cache
def _good(text: str) -> Tree | None:
    return _read(text)


def _copied(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [*map(_copied, node)] if isinstance(node, list) else node


def _read(text: str) -> Tree | None:
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) and _plain(found) else None


def _plain(found: object) -> bool:
    if isinstance(found, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in found.items())
    return all(map(_plain, found)) if isinstance(found, list) else isinstance(found, str)


def text_of(tree: Tree) -> str:
    return yaml.dump(tree, sort_keys=False, width=10_000, allow_unicode=True)


def rearranged(rng: random.Random, tree: Tree) -> None:
    """One change of a tree that leaves it YAML: of a value, between keys, levels or specs."""
    changes = [_expression, _expression, _expression, _value, _swap, _move, _drop, _borrow]
    changes += [_graft, _rename, _duplicate, _wrap, _hyper, _value]
    rng.choice(changes)(rng, tree)


def _leaves(node: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all texts."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    out = []
    for key, value in items:
        out += [(*path, key)] if isinstance(value, str) else _leaves(value, (*path, key))
    return out


def _at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _blocks(tree: Tree, *names: str) -> list[Tree]:
    """The mappings under the given keys that hold mappings or texts by name."""
    return [tree[n] for n in names if isinstance(tree.get(n), dict) and tree[n]]


def _levels(tree: Tree) -> list[Tree]:
    return [x for block in _blocks(tree, "levels") for x in block.values() if isinstance(x, dict)]


def _names(tree: Tree) -> list[str]:
    blocks = _blocks(tree, "levels", "let", "hyper", "inputs", "weights", "clocks")
    return [name for block in blocks for name in block] or ["x"]


def _expression(rng: random.Random, tree: Tree) -> None:
    if paths := _leaves(tree):
        path = rng.choice(paths)
        old = _at(tree, path)
        _at(tree, path[:-1])[path[-1]] = expression(rng, old, [*_names(tree), *FUNCTIONS])


def _value(rng: random.Random, tree: Tree) -> None:
    """A key of a level, or of the spec, with a value that such keys take."""
    key = rng.choice([*VALUES])
    where = tree if key in ("heads", "context") else rng.choice(_levels(tree) or [tree])
    value = rng.choice(VALUES[key])
    where[key] = yaml.load(value, Loader=yaml.BaseLoader) if value.startswith("{") else value


def _swap(rng: random.Random, tree: Tree) -> None:
    """Two values change places; keys of the same name more often."""
    if not (paths := _leaves(tree)):
        return
    a = rng.choice(paths)
    alike = [p for p in paths if p[-1] == a[-1] and p != a]
    b = rng.choice(alike if alike and rng.random() < 0.7 else paths)
    x, y = _at(tree, a), _at(tree, b)
    _at(tree, a[:-1])[a[-1]], _at(tree, b[:-1])[b[-1]] = y, x


def _move(rng: random.Random, tree: Tree) -> None:
    """A key of one level goes to another."""
    if len(levels := _levels(tree)) > 1:
        a, b = rng.sample(levels, 2)
        if a:
            key = rng.choice([*a])
            b[key] = a.pop(key) if rng.random() < 0.5 else a[key]


def _drop(rng: random.Random, tree: Tree) -> None:
    where = rng.choice([tree, *_levels(tree), *_blocks(tree, "levels", "let", "hyper", "inputs")])
    if where:
        del where[rng.choice([*where])]


def _duplicate(rng: random.Random, tree: Tree) -> None:
    """A level, a let or an input again under another name."""
    if blocks := _blocks(tree, "levels", "let", "inputs"):
        block = rng.choice(blocks)
        name = rng.choice([*block])
        again = f"{re.sub(r'[^a-zA-Z]', '', name) or 'x'}{rng.randrange(10)}"
        block[again] = yaml.load(yaml.dump(block[name]), Loader=yaml.BaseLoader)


def _rename(rng: random.Random, tree: Tree) -> None:
    """A name everywhere, perhaps to one that is taken."""
    old, new = rng.choice(_names(tree)), rng.choice([*_names(tree), *WORDS])
    if rng.random() < 0.3:  # what the compiler may call a part of it
        new = rng.choice(_names(tree)) + rng.choice(ENDINGS)
    text = re.sub(rf"\b{re.escape(old)}\b", new, text_of(tree))
    if (made := tree_of(text)) is not None:
        tree.clear()
        tree.update(made)


def _wrap(rng: random.Random, tree: Tree) -> None:
    """A whole expression inside a function, or beside a read of something."""
    if paths := _leaves(tree):
        path, f, name = rng.choice(paths), rng.choice(FUNCTIONS), rng.choice(_names(tree))
        old = _at(tree, path)
        forms = [
            f"{f}({old})",
            f"({old}).T",
            f"{old} + {name}",
            f"{name}({old})",
            f"({old}) * {f}(t)",
        ]
        forms += [f"{name} @ ({old})", f"[{old}, {old}]", f"where({name} < 1, {old}, 0)"]
        _at(tree, path[:-1])[path[-1]] = rng.choice(forms)


def _hyper(rng: random.Random, tree: Tree) -> None:
    if blocks := _blocks(tree, "hyper"):
        values = [
            *NUMBERS,
            *blocks[0],
            "d / 2",
            "[1, 2, 3]",
            "true",
            "2**d",
            "-d",
            "exp(1)",
            "1 / 0",
        ]
        blocks[0][rng.choice([*blocks[0], "d", "n"])] = rng.choice(values)


def _borrow(rng: random.Random, tree: Tree) -> None:
    """A key of a level of another spec."""
    other = tree_of(rng.choice(GOOD)) or {}
    mine, theirs = _levels(tree), _levels(other)
    if mine and theirs:
        level = rng.choice(theirs)
        if level:
            key = rng.choice([*level])
            rng.choice(mine)[key] = level[key]


def _graft(rng: random.Random, tree: Tree) -> None:
    """A level, a let or a block of another spec, with the hypers and lets that it may need."""
    other = tree_of(rng.choice(GOOD)) or {}
    key = rng.choice(["levels", "levels", "let", "weights", "inputs", "hyper", "use", "applies_to"])
    theirs = _blocks(other, key)
    if not theirs:
        return
    if not isinstance(tree.get(key), dict):
        tree[key] = {}
    name = rng.choice([*theirs[0]])
    tree[key][name] = theirs[0][name]
    for needed in ("hyper", "let", "weights") if rng.random() < 0.7 else ():
        if theirs := _blocks(other, needed):
            mine = tree.get(needed)
            tree[needed] = {**theirs[0], **(mine if isinstance(mine, dict) else {})}


# --------------------------------------------------------------------------------------------- mutants


def mutant(seed: int) -> str | bytes:
    """A spec changed once to six times; now and then bytes that may be no text."""
    rng = random.Random(seed)
    way = seed % 4
    text = rng.choice(SEEDS if way == 0 else GOOD)
    if way == 3 and rng.random() < 0.3:
        text = random_system(rng.randrange(10**6))
    if way in (0, 1):
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            text = edited(rng, text)
        return _noisy(rng, text.encode("utf-8", "replace")) if seed % 24 == 0 else text
    tree = tree_of(text)
    if tree is None:
        return text
    for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 5])):
        rearranged(rng, tree)
    return text_of(tree)


def _noisy(rng: random.Random, data: bytes) -> bytes:
    """Cut anywhere, with bytes flipped, put in, or in another encoding."""
    kind, at = rng.randrange(5), rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.choice([1, 2, 8])) + data[at:]
    if kind == 2 and data:
        flipped = bytearray(data)
        flipped[at % len(data)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    codec = rng.choice(["utf-16", "utf-32", "utf-7", "latin-1", "utf-8-sig"])
    return data.decode("utf-8").encode(codec, "replace")
