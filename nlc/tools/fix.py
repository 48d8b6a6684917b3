"""``nlc check --fix``: the certain repairs of a spec's mistakes, until none is left.

A repair may uncover the next mistake (quotes that close, then a misspelt name behind them), so the
text is checked again after each round. What is not repaired stays as it is, byte for byte.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nlc import pipeline
from nlc.base.diagnostics import Diagnostic, Fix
from nlc.base.render import escape
from nlc.pipeline import Spec

_SHOWN = 60  # characters of a text that an edit shows
ROUNDS = 20  # each repairs all that is seen; a text that needs more is no slip of the hand


@dataclass(frozen=True)
class Edit:
    """What one repair changed; ``line`` counts from 1 in the text before it."""

    file: str
    line: int
    code: str
    old: str
    new: str

    def __str__(self) -> str:
        place = f"{escape(self.file)}:{self.line}"
        if self.old.split() == self.new.split():
            count = len((self.old or self.new).splitlines())
            return f"{place}: {'line' if count == 1 else f'{count} lines'} indented"
        if not self.old:
            return f"{place}: {_short(self.new)} added"
        return f"{place}: {_short(self.old)} → {_short(self.new)}"

    def asdict(self) -> dict[str, object]:
        facts = {"file": self.file, "line": self.line, "code": self.code}
        return {"fixed": True, **facts, "old": self.old, "new": self.new}


def _short(text: str) -> str:
    line = escape(" ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


@dataclass(frozen=True)
class Repaired:
    """The spec as it is now, and what was changed."""

    spec: Spec
    edits: tuple[Edit, ...]

    def __str__(self) -> str:
        return "".join(f"{edit}\n" for edit in self.edits)

    def json(self) -> str:
        """One object a line, beside those of the diagnostics that are left."""
        return "".join(f"{json.dumps(e.asdict(), ensure_ascii=False)}\n" for e in self.edits)


def repaired(spec: Spec) -> Repaired:
    """The spec after every certain repair. Never raises for a mistake of the user's."""
    edits: list[Edit] = []
    for _ in range(ROUNDS):
        source = spec.source
        found = [d for d in spec.check().ordered if d.fix and d.fix.span.source is source]
        text, done = source.text, []
        for d, fix in reversed(list(_apart(found))):
            text = text[: fix.span.start] + fix.replacement + text[fix.span.end :]
            done.append(Edit(source.name, fix.span.line, d.code, fix.span.text, fix.replacement))
        if text == source.text:
            break
        edits += reversed(done)
        spec = pipeline.loads(text, source.name)
    return Repaired(spec, tuple(edits))


def _apart(found: Iterable[Diagnostic]) -> Iterator[tuple[Diagnostic, Fix]]:
    """Repairs in the order of the text, none over another: what is left comes in the next round."""
    pairs = ((d, d.fix) for d in found if d.fix is not None)
    end = -1
    for d, fix in sorted(pairs, key=lambda pair: (pair[1].span.start, pair[1].span.end)):
        if fix.span.start > end or fix.span.start == end != fix.span.end:
            yield d, fix
            end = fix.span.end


def file(name: str | os.PathLike[str]) -> Repaired:
    """Repairs a spec in place. Raises SpecError if there is none or it is no text, OSError as files do."""
    spec = pipeline.load(name)
    done = repaired(spec)
    if done.edits:
        _write(Path(spec.source.name), done.spec.source.text)
    return done


def stream(text: str) -> Repaired:
    """The same for a text from standard input; nothing is written."""
    return repaired(pipeline.loads(text, "<stdin>"))


def _write(path: Path, text: str) -> None:
    """All of the file or nothing, with its byte order mark, its line breaks and its permissions."""
    path = path.resolve()  # a link stays one
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    mark = codecs.BOM_UTF8 if path.read_bytes().startswith(codecs.BOM_UTF8) else b""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(mark + text.encode("utf-8"))
        shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
