"""The documents are true: their commands run and print what is shown, their Python runs, what they name exists.

Fenced blocks of README.md and docs/, in the order of each document and in one temporary directory:

``yaml``     a block that starts with ``nlc:`` is a whole spec: it passes ``check``, is the shipped one if it has
             a shipped name, and stands in the directory as NAME.yaml for what follows;
``console``  lines after ``$ `` are commands, the lines below them what they print, to the letter;
``python``   runs; the blocks of a document share their names;
``pycon``    the same with ``>>> `` and what is printed;
``sh``       is for the reader's machine: it must name targets of the Makefile and extras of pyproject.toml.

A table of the language stands between the command that prints it and an end, as comments of Markdown
(``nlc/tools/reference.py: filled``).

``pytest tests/test_docs.py --update-golden`` writes what is printed now into the documents.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from shipped_specs import load

import nlc
from nlc.pipeline import shipped
from nlc.tools.reference import filled

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = {"yaml", "console", "python", "pycon", "sh"}
FENCE = re.compile(r"^```(?P<kind>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@dataclass(frozen=True)
class Block:
    """``text`` is what stands between the fences, from ``start`` in the document."""

    kind: str
    text: str
    start: int
    line: int


def _blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(m["kind"], m["text"], m.start("text"), text.count("\n", 0, m.start("text")) + 1)
        for m in FENCE.finditer(text)
    ]


class Reader:
    """Does what a document says, and keeps what was really printed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "__main__"}
        commands = folder / ".bin"
        commands.mkdir()
        tool = commands / "nlc"
        tool.write_text(f"#!{sys.executable}\nfrom nlc.cli import main\nmain()\n")
        tool.chmod(0o755)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        for key, value in {
            "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]),
            "PYTHONPATH": path,
            "NLC_CACHE_DIR": str(folder / ".cache"),
            "NO_COLOR": "1",
        }.items():
            monkeypatch.setenv(key, value)
        monkeypatch.delenv("NLC_PATH", raising=False)
        monkeypatch.chdir(folder)

    def yaml(self, block: Block, where: str) -> str:
        if not block.text.startswith("nlc:"):
            return block.text
        spec = nlc.loads(block.text, where)
        report = spec.check()
        name = spec.tree.system.text
        mistakes = [d for d in report.diagnostics if d.severity == "error" or name not in shipped()]
        assert not mistakes, f"{where}\n{nlc.SpecError(report)}"
        if name in shipped():
            assert block.text == shipped()[name].read_text(encoding="utf-8"), f"{where}: not {name}"
        (self.folder / f"{name}.yaml").write_text(block.text, encoding="utf-8")
        return block.text

    def console(self, block: Block, where: str) -> str:
        assert block.text.startswith("$ "), f"{where}: a console block starts with a command"
        out = []
        for line in block.text.splitlines():
            if not line.startswith("$ "):
                continue
            out.append(line)
            if not _is_make(line[2:], where):
                printed = subprocess.run(
                    ["sh", "-c", line[2:]],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    timeout=300,  # a busy machine fails no test
                ).stdout
                out += self._lines(printed)
        return "".join(f"{line}\n" for line in out)

    def python(self, block: Block, where: str) -> str:
        exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), self.names)
        return block.text

    def pycon(self, block: Block, where: str) -> str:
        out = []
        for example in doctest.DocTestParser().get_examples(block.text):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(example.source, where, "single"), self.names)
            source = example.source.splitlines()
            out += [f"{'>>>' if i == 0 else '...'} {x}" for i, x in enumerate(source)]
            out += self._lines(printed.getvalue())
        return "".join(f"{line}\n" for line in out)

    def sh(self, block: Block, where: str) -> str:
        for line in block.text.splitlines():
            if not _is_make(line, where):
                _is_install(line, where)
        return block.text

    def _lines(self, printed: str) -> list[str]:
        """Without the paths of this machine, and without space at the ends."""
        for folder in (self.folder, ROOT):
            printed = printed.replace(f"{folder}{os.sep}", "")
        return [line.rstrip() for line in printed.rstrip().splitlines()]


def _is_make(line: str, where: str) -> bool:
    words = shlex.split(line, comments=True)
    if words[:1] != ["make"]:
        return False
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for word in words[1:]:
        assert "=" in word or word in rules, f"{where}: the Makefile has no target {word}"
    return True


def _is_install(line: str, where: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[:2] == ["pip", "install"], f"{where}: only make and pip install: {line}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[2:]:
        for extra in re.findall(r"[\w-]+", word.partition("[")[2]):
            assert extra in project["optional-dependencies"], f"{where}: no extra {extra}"


@each_document
def test_blocks_run_and_print_what_is_shown(
    document: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    reader, text = Reader(tmp_path, monkeypatch), document.read_text(encoding="utf-8")
    found = text
    for block, printed in reversed(_done(reader, document)):
        found = found[: block.start] + printed + found[block.start + len(block.text) :]
    if request.config.getoption("--update-golden"):
        document.write_text(found, encoding="utf-8")
    else:
        assert found == text, f"{document.name} shows something else than what is printed"


@each_document
def test_tables_are_those_of_the_compiler(document: Path, request: pytest.FixtureRequest) -> None:
    text = document.read_text(encoding="utf-8")
    found = filled(text)
    if request.config.getoption("--update-golden"):
        document.write_text(found, encoding="utf-8")
    else:
        assert found == text, f"`python -m nlc.tools.reference {document.name}` writes them anew"


def _done(reader: Reader, document: Path) -> list[tuple[Block, str]]:
    """Each block, and how it reads with what is really printed."""
    out = []
    for block in _blocks(document):
        where = f"{document.relative_to(ROOT)}:{block.line}"
        if block.kind not in KINDS:
            assert block.kind in ("", "text"), f"{where}: nothing checks a block of {block.kind}"
            continue
        out.append((block, getattr(reader, block.kind)(block, where)))
    return out


@each_document
def test_paths_and_links_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    assert text.count("```") == 2 * len(_blocks(document)), "a fence is open"
    for target, _, place in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", re.sub(r"`[^`]*`", "", prose)):
        other = document.parent / target if target else document
        assert "://" in target or other.exists(), target
        if place and other.suffix == ".md":
            assert place in _headings(other), f"{other.name} has no heading {place}"
    top = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    for name in re.findall(rf"`((?:{top})/[\w./-]*)`", prose):
        assert (ROOT / name).exists(), f"{document.name} names {name}"


def _headings(document: Path) -> set[str]:
    """As GitHub writes them in links."""
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_names_of_the_code_exist(document: Path) -> None:
    """``nlc/ir/ops.py: OPS`` in a document names something that the file defines."""
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    for path, name in re.findall(r"`(nlc/[\w/]+\.py): (\w+)`", prose):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^ *(class |def )?{name}\b", source, re.M), f"{path} defines no {name}"


def test_the_readme_lists_every_shipped_spec_once() -> None:
    """A line of optimizers names what trains tensors, any other token systems."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = text.partition("The shipped specs:\n\n")[2].partition("\n\n")[0]
    named = []
    for line in re.split(r"^- ", listed, flags=re.M)[1:]:
        trains = line.startswith("optimizers")
        names = re.findall(r"`(\w+)`", line)
        assert {load(name).tree.context.text != "tokens" for name in names} == {trains}, line
        named += names
    assert sorted(named) == sorted(shipped())


def test_every_code_that_documents_name_exists() -> None:
    from nlc.base.codes import CODES

    for document in DOCUMENTS:
        for code in re.findall(r"\bNLC\d{3}\b", document.read_text(encoding="utf-8")):
            assert code in CODES, f"{document.name}: {code}"


# What docs/language.md says is not there yet: its words, a shipped spec, an edit that asks for it.
REFUSED = [
    ("`n per step`", "adamw", "every step", "2 per step"),
    (
        "of a level of `n per token`: `anchor`",
        "delta_net",
        "every token",
        "2 per token\n    anchor: every 4 tokens",
    ),
    (
        "`toward: init`",
        "delta_net",
        "every token",
        "2 per token\n    toward: init\n    init: learned",
    ),
    (
        "a rule that is a system of its own",
        "titans",
        "every token\n    anchor: every chunk tokens",
        "2 per token",
    ),
    ("`sum(e, last=c)` in a gradient system", "adamw", "-dot(m, g)", "sum(-dot(m, g), last=4)"),
    (
        "`grad` outside an `update`",
        "delta_net",
        "gd(lr=beta)",
        "gd(lr=beta / norm(grad(sqnorm(S(key)), S)))",
    ),
    ("`grad_at`", "adamw", "levels:", "grad_at: W\nlevels:"),
    ("`inputs` of a gradient or layer system", "adamw", "levels:", "inputs: {h: [3]}\nlevels:"),
]


@pytest.mark.parametrize(("words", "spec", "old", "new"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_the_reference_calls_missing_is_refused(
    words: str, spec: str, old: str, new: str
) -> None:
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    assert words in " ".join(page.partition("does not have")[2].split())
    text = shipped()[spec].read_text(encoding="utf-8")
    changed = text.replace(old, new, 1)
    assert changed != text
    assert "NLC701" in {d.code for d in nlc.loads(changed).check().diagnostics}
