"""Every single slip of many kinds in a sound spec: of a name, a key, a shape, a clock, an operator, a line.

``slips(text)`` gives them by what was done; ``python tests/single_slips.py SPEC [PART]`` prints what is said of those
that have more than one message.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

_NAME = re.compile(r"[^\W\d]\w*")
_VALUE = re.compile(r"^( *(?:- )?)([^\s:#][^:#]*): +([^\s#].*?)( *(?: #.*)?)$")
_KEYS = (
    "nlc system context hyper heads inputs outputs weights clocks use let levels output applies_to doc ref for is"
    " frequency memory key value objective rule update retain toward project anchor init reset backprop phase"
).split()
WORDS = frozenset(_KEYS)

# Values that a key may be given by mistake, each with what is wrong about it; `{}` is the value as it was.
VALUES = {
    "memory": (
        ("another shape", "vector(d)"),
        ("a row less", "matrix(3, 5)"),
        ("a scalar", "scalar"),
        ("one argument", "matrix(d)"),
        ("without a step", "cache"),
        ("not there", "tensor(d, d)"),
        ("of an optimizer", "like(W)"),
        ("of a token system", "mlp(d, 2)"),
    ),
    "objective": (
        ("misspelt name", "los"),
        ("not of the state", "0"),
        ("a shape", "{} * g"),
        ("a word", "mse"),
        ("no number", "[1, 2]"),
    ),
    "rule": (
        ("misspelt name", "gdd(lr=0.1)"),
        ("no arguments", "gd()"),
        ("an argument too many", "gd(lr=0.1, momentum=0.9)"),
        ("by place", "gd(0.1)"),
        ("no rule", "0.1"),
        ("negative", "gd(lr=-1)"),
    ),
    "frequency": (
        ("a word missing", "every"),
        ("another unit", "every 2 episodes"),
        ("no period", "every 0 UNITs"),
        ("misspelt", "evry UNIT"),
        ("slow", "every 4 UNITs"),
        ("a fraction", "every 1.5 UNITs"),
        ("unknown period", "every chnk UNITs"),
        ("never", "infinite"),
    ),
    "init": (("misspelt", "leanred"), ("a shape", "linear(x)"), ("a number", "1")),
    "anchor": (("unknown period", "every chnk UNITs"), ("a number", "16")),
    "context": (("misspelt", "{}s"), ("the other", "gradients"), ("another", "layers")),
    "heads": (("none", "0"), ("a fraction", "1.5"), ("a word", "four"), ("a list", "[2, 4]")),
    "nlc": (("another version", "2"), ("a word", "one")),
    "retain": (("negative", "-1"), ("too much", "2"), ("a shape", "linear(x, d)")),
    "backprop": (("another", "true"),),
    "phase": (("another", "middle"),),
    "key": (("a scalar", "1"), ("unknown", "kk"), ("not heads", "linear(x, 7)")),
    "value": (("a scalar", "1"), ("unknown", "vv"), ("another width", "linear(x, 7)")),
    "update": (("unknown", "foo"), ("a scalar", "1")),
    "project": (("unknown", "foo"), ("a scalar", "1")),
    "toward": (("unknown", "start"),),
}


def _misspelt(name: str) -> str:
    """Two letters change places, or one is lost."""
    for i in range(1, len(name) - 1):
        if name[i] != name[i + 1] and name[i : i + 2].isalpha():
            return name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    return name + "x" if len(name) < 3 else name[:-1]


def slips(text: str) -> Iterator[tuple[str, str]]:
    """What was done, with the number of the line, and the text then."""
    lines = text.split("\n")
    said: set[str] = {text}
    for what, changed in _slips(lines):
        made = "\n".join(changed)
        if made not in said:
            said.add(made)
            yield what, made


def _slips(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    unit = "step" if "context: gradients" in lines else "token"
    for n, line in enumerate(lines):
        match = _VALUE.match(line)
        indent = len(line) - len(line.lstrip())

        def put(new: str | None, n: int = n) -> list[str]:
            return [*lines[:n], *([] if new is None else [new]), *lines[n + 1 :]]

        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = line.strip().split(":")[0]
        if key in ("doc", "ref", "system") or (not match and not line.rstrip().endswith(":")):
            continue  # prose
        if n and key != "levels":
            yield f"{n + 1}: line lost: {line.strip()}", put(None)
        block = _block(lines, n)
        if len(block) > 1:
            yield f"{n + 1}: block lost: {key}", [*lines[:n], *lines[n + len(block) :]]
        yield f"{n + 1}: key misspelt: {key}", put(line.replace(key, _misspelt(key), 1))
        if indent:
            yield f"{n + 1}: one space more: {key}", put(" " + line)
            yield f"{n + 1}: one space less: {key}", put(line[1:])
        yield f"{n + 1}: no colon: {key}", put(line.replace(":", "", 1))
        yield f"{n + 1}: twice: {key}", [*lines[: n + len(block)], *block, *lines[n + len(block) :]]
        if not match:
            continue
        head, value, tail = f"{match[1]}{match[2]}: ", match[3], match[4]
        yield f"{n + 1}: empty: {key}", put(head.rstrip())
        yield f"{n + 1}: a list: {key}", put(f"{head}[{value}]{tail}")
        for why, new in VALUES.get(key, ()):
            new = new.replace("UNIT", unit)
            yield f"{n + 1}: {key}: {why}", put(head + new.replace("{}", value) + tail)
        if key in ("frequency", "context", "nlc", "for", "anchor", "phase", "backprop"):
            continue
        for m in _NAME.finditer(value):
            old, a, b = m[0], m.start(), m.end()
            for why, new in (("misspelt", _misspelt(old)), ("another case", old.swapcase())):
                yield f"{n + 1}: {why}: {new}", put(head + value[:a] + new + value[b:] + tail)
            if value[b : b + 1] == "(":
                end = _closing(value, b)
                inner = value[b + 1 : end]
                yield (
                    f"{n + 1}: not called: {old}",
                    put(head + value[:a] + inner + value[end + 1 :]),
                )
                cut = value[:b] + "(" + value[end:]
                yield f"{n + 1}: nothing inside: {old}", put(head + cut + tail)
                more = value[:end] + ", 3" + value[end:]
                yield f"{n + 1}: one more inside: {old}", put(head + more + tail)
            else:
                yield f"{n + 1}: called: {old}", put(head + value[:b] + "(q)" + value[b:] + tail)
                for new in ("1", f"{old}.T", f"sum({old})"):
                    yield f"{n + 1}: {new}", put(head + value[:a] + new + value[b:] + tail)
        for m in re.finditer(r"[(),*/+]|\*\*| - |\]|\[", value):
            without = value[: m.start()] + value[m.end() :]
            yield f"{n + 1}: without {m[0].strip()} at {m.start()}", put(head + without + tail)
        for m in re.finditer(r" \* ", value):
            for new in (" @ ", " = ", " ^ "):
                changed = value[: m.start()] + new + value[m.end() :]
                yield f"{n + 1}: {new.strip()} for * at {m.start()}", put(head + changed + tail)


def _block(lines: list[str], n: int) -> list[str]:
    """The line and those that stand deeper behind it."""
    indent = len(lines[n]) - len(lines[n].lstrip())
    end = n + 1
    while end < len(lines) and lines[end].startswith(" " * (indent + 1)):
        end += 1
    return lines[n:end]


def _closing(value: str, at: int) -> int:
    depth = 0
    for i in range(at, len(value)):
        depth += (value[i] == "(") - (value[i] == ")")
        if not depth:
            return i
    return len(value)


if __name__ == "__main__":
    import nlc
    from nlc.base.render import render_report
    from nlc.pipeline import find

    path = find(sys.argv[1])
    for what, text in slips(path.read_text(encoding="utf-8")):
        report = nlc.loads(text, str(path)).check()
        if len(report.diagnostics) > 1 and "".join(sys.argv[2:]) in what:
            print(f"=== {what}", render_report(report), sep="\n")
