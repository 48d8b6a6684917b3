"""What a code means, with a spec that makes the mistake, what is said of it, and one that does not.

``document`` is all of them as one page of Markdown: docs/errors.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from nlc.base.codes import CODES
from nlc.tools.examples import EXAMPLES, GRADIENTS, TOKENS, Example
from nlc.tools.layout import wrap
from nlc.tools.table import WIDTH

STAGES = {
    "0": "The text",
    "1": "Keys",
    "2": "Names and arguments",
    "3": "Shapes and heads",
    "4": "Time",
    "5": "Derivation",
    "6": "Plans",
    "7": "Backends, and what is not built yet",
    "8": "Soundness of a step",
    "9": "Ours",
}


def is_code(text: str) -> bool:
    """Whether a text looks like the code of a diagnostic."""
    return re.fullmatch(r"NLC\d+", text, re.IGNORECASE) is not None


def code(text: str) -> dict[str, str | None] | None:
    """The facts of a code; None if there is none of it.

    ``bad`` and ``good`` are whole specs and ``message`` is what is said of the bad one, None where no spec can make
    the mistake; ``asked`` are options of the command line that it takes.
    """
    name = text.upper()
    found, example = CODES.get(name), EXAMPLES.get(name)
    if found is None:
        return None
    return {
        "code": name,
        "severity": found.severity,
        "title": found.title,
        "text": found.text,
        "asked": _asked(example, 0) if example else None,
        "bad": example.bad_text if example else None,
        "message": example.of_bad()[1] if example else None,
        "good": example.good_text if example else None,
    }


def said(text: str) -> str | None:
    """The facts of a code for people; None if there is none of it."""
    facts = code(text)
    if facts is None:
        return None
    name = str(facts["code"])
    lines = [f"{facts['severity']}[{name}]: {facts['title']}", "", *wrap(facts["text"], WIDTH)]
    if (example := EXAMPLES.get(name)) is not None:
        bad = example.bad_text
        lines += ["", f"Wrong{_with(example, 0)}:", "", _indented(_shown(bad)), ""]
        lines += [_indented(str(facts["message"])), ""]
        lines += [
            f"Right{_with(example, 1)}:",
            "",
            _indented(_excerpt(example.good_text, bad, example.base)),
        ]
    return "\n".join(lines)


def _asked(example: Example, which: int) -> str | None:
    if example.backends is not None:
        return f"compile --backend {example.backends[which]}"
    plans = "".join(f" --plan {level}={plan}" for level, plan in example.plan.items())
    return f"compile{plans}" if plans else None


def _with(example: Example, which: int) -> str:
    asked = _asked(example, which)
    return f", with `nlc {asked}`" if asked else ""


def _shown(text: str) -> str:
    """Control characters spelled out, tabs drawn."""
    return re.sub(r"[^\n -~\u00a1-\U0010ffff]", lambda m: _escape(m[0]), text)


def _escape(ch: str) -> str:
    return "→" if ch == "\t" else f"\\x{ord(ch):02x}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").split("\n"))


def _excerpt(text: str, *others: str) -> str:
    """The lines of ``text`` in which it differs from any other, below the keys that they belong to.

    All of it where they do not differ.
    """
    lines = text.splitlines()
    kept = {i for other in others for i in _different(lines, other.splitlines())}
    if not kept:
        return _shown(text)
    for i in sorted(kept):
        indent = _indent(lines[i])
        for j in range(i - 1, -1, -1):
            if _indent(lines[j]) < indent:
                indent = _indent(lines[j])
                kept.add(j)
    out: list[str] = []
    last = -1
    for i in sorted(kept):
        if i > last + 1:
            out.append(" " * _indent(lines[i]) + "...")
        out.append(lines[i])
        last = i
    return _shown("\n".join(out))


def _different(lines: list[str], others: list[str]) -> Iterator[int]:
    """The lines that others do not have, and the one above a place where others have more."""
    matcher = SequenceMatcher(None, others, lines, autojunk=False)
    for tag, _, _, start, end in matcher.get_opcodes():
        if tag == "delete":
            yield max(start - 1, 0)
        elif tag != "equal":
            yield from range(start, end)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# ------------------------------------------------------------------------------------------- the page

_HEAD = """\
# Messages of the compiler

Every message has a code. A code means one kind of mistake, for ever: it is never used for another. `nlc explain CODE`
prints what stands here of it, from the same examples. This page is written by the command
`nlc list codes --format markdown > docs/errors.md`, which runs the compiler on every example; a test fails if it is
out of date. Without an example stand {bare}, which no mistake in a spec brings.

`nlc check SPEC` finds all mistakes of a spec in one run, each once; text behind something that cannot be parsed is
judged once that is mended. `--fix` repairs those that are certain (misspelt names, symbols and keys of other languages,
missing quotes) and says what it changed. `--format json` and `--format github` are for programs. Warnings do not stop
the compiler. A warning that you know of is silenced by a comment with its code, `# nlc: allow NLC210`, and a reason if
you like: behind the line that it is about, on a line of its own above that, or above the first key for the whole file.

The examples are edits of two small specs, a token system and an optimizer; `...` stands for their other lines.
"""


def document() -> str:
    """The page of all codes, in Markdown."""
    out = [
        _HEAD.format(bare=" and ".join(sorted(CODES.keys() - EXAMPLES.keys()))),
        _fence(TOKENS, "yaml"),
        _fence(GRADIENTS, "yaml"),
    ]
    for digit, stage in STAGES.items():
        rows = [n for n in CODES if n[3] == digit]
        links = ", ".join(f"[{n}](#{n.lower()}) {CODES[n].title}" for n in rows)
        out.append(f"- **{stage}**: {links}\n")
    out = [*out[:3], "".join(out[3:])]
    for digit, stage in STAGES.items():
        out.append(f"## {stage}\n")
        out += [_section(name) for name in CODES if name[3] == digit]
    return "\n".join(out)


def _section(name: str) -> str:
    facts = code(name)
    assert facts is not None
    example = EXAMPLES.get(name)
    head = [f"### {name}\n", f"**{facts['title']}** ({facts['severity']}). {facts['text']}\n"]
    if example is None:
        return "\n".join(head)
    bad, good = example.bad_text, example.good_text
    return "\n".join(
        [
            *head,
            f"Wrong{_with(example, 0)}:\n",
            _fence(_excerpt(bad, good, example.base)),
            _fence(str(facts["message"])),
            f"Right{_with(example, 1)}:\n",
            _fence(_excerpt(good, bad, example.base)),
        ]
    )


def _fence(text: str, kind: str = "text") -> str:
    return f"```{kind}\n{text.rstrip()}\n```\n"
