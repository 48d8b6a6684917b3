"""The reference of the language: every table is complete, and every example in it compiles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

import nlc
from nlc import cli
from nlc.base.diagnostics import Report
from nlc.base.span import Source, Span
from nlc.lib.functions import FUNCTIONS, READS, Function
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import RULES
from nlc.pipeline import shipped
from nlc.runtime.operations import EPS
from nlc.syntax import clock, operators
from nlc.syntax.math import grammar, parse_text
from nlc.syntax.schema import BLOCKS, Block, example_of, keys_of, kind_of
from nlc.syntax.yamlnodes import Scalar
from nlc.tools import reference, samples

ROOT = Path(__file__).parent.parent
EVERY = [
    pytest.param(entry, id=f"{what}: {entry.usage}")
    for what in reference.TABLES
    for entry in reference.entries(what)
]


def explained(arguments: str) -> str:
    result = CliRunner().invoke(cli.main, ["explain", *arguments.split()])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("entry", EVERY)
def test_an_entry_says_what_it_is_and_its_example_compiles(entry: reference.Entry) -> None:
    assert entry.doc and entry.usage and entry.kind
    text = reference.said(entry)
    assert text.startswith(f"{entry.usage}: {entry.kind}\n")
    assert "`" not in text and not re.search(r" $", text, re.M)
    facts = {**entry.facts(), **entry.more()}
    assert all(value in ("", []) or key in text for key, value in facts.items())


def test_the_line_of_a_spec_is_its_whole_first_sentence() -> None:
    for entry in reference.entries("specs"):
        assert entry.doc.endswith(".") and not re.search(r"\beqs?\.$", entry.doc)
        rest = nlc.load(entry.name).tree.doc.text.removeprefix(entry.doc)
        assert not rest or rest[0].isspace()


@pytest.mark.parametrize("f", [*FUNCTIONS.values(), *READS.values()], ids=lambda f: f.name)
def test_the_example_of_a_function_calls_it(f: Function) -> None:
    assert re.search(rf"\b{f.name}\(", f.example)


@pytest.mark.parametrize("name", MEMORIES)
def test_the_example_of_a_memory_is_one(name: str) -> None:
    assert re.search(rf"^memory: {name}\b", MEMORIES[name].example, re.M)


@pytest.mark.parametrize("name", RULES)
def test_the_example_of_a_rule_is_one(name: str) -> None:
    assert RULES[name].example.startswith(f"{name}(")


def test_what_a_recurrence_needs_to_be_written_out_is_said_and_true() -> None:
    """Which tap is the newest token's, the eps of norms, which channels are the first head's."""
    doc = {f.name: " ".join(f.doc.split()) for f in FUNCTIONS.values()}
    assert "the last tap of a weight is for the newest" in doc["conv"]
    assert EPS == 1e-6 and "1e-6" in doc["rmsnorm"] and "1e-6" in doc["layernorm"]
    assert "the first n are the first head's" in doc["split"]
    text = "nlc: 1\nsystem: probe\ncontext: tokens\nhyper: {d: 4}\nheads: 2\ninputs: {x: [d]}\n"
    lets = {"c": "conv(x, 3)", "r": "rmsnorm(x)", "n": "layernorm(x)", "s": "split(x)"}
    text += "let: {" + ", ".join(f'{k}: "{e}"' for k, e in lets.items()) + "}\n"
    text += "outputs: {yc: [d], yr: [d], yn: [d], ys: [d]}\n"
    text += "output: {yc: c, yr: r, yn: n, ys: merge(s * (head + 1))}\n"
    net = nlc.compile(nlc.loads(text))().double()
    x = torch.randn(1, 5, 4, dtype=torch.double)
    (weight,) = (w for name, w in net.named_parameters() if "conv" in name)
    with torch.no_grad():
        weight.zero_()
        weight[..., -1] = 1
        out, _ = net(x)
    torch.testing.assert_close(out["yc"], x)
    torch.testing.assert_close(out["yr"], x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    mid = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(out["yn"], mid / (mid.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    torch.testing.assert_close(out["ys"], x * torch.tensor([1, 1, 2, 2]))


def test_an_example_with_a_mistake_is_no_example() -> None:
    with pytest.raises(nlc.SpecError, match="NLC202"):
        samples.value(Function("f", {}, "nosuch(v)", "none"))
    with pytest.raises(nlc.SpecError, match="NLC803"):
        samples.step(
            "frequency: every token\nmemory: matrix(n, n)\nobjective: 0.5 * sqnorm(M(v) - v)\nrule: gd(lr=b)"
        )


@pytest.mark.parametrize(
    ("name", "gives"),
    [
        ("sigmoid", "a number per head, from 0 to 1"),
        ("l2norm", "`[n]` per head, norm at most 1"),
        ("linear", "`[2*d]`"),
        ("per_key", "`[1, n]` per head, from 0 to 1"),
        ("newton_schulz", "`like(W)`"),
        ("last", "`[n]` per head"),
        ("concat", "`[2*n]` per head"),
        ("flatten", "`[n*n]` per head"),
    ],
)
def test_what_a_function_gives_is_what_the_compiler_finds(name: str, gives: str) -> None:
    assert reference.described(samples.value(FUNCTIONS[name])) == gives


def test_every_alternative_of_the_grammar_is_an_operator() -> None:
    aliases = {r.alias for r in grammar().rules if r.alias} - {"keyword"}
    assert aliases == operators._MEANING.keys() == {o.name for o in operators.operators()}
    assert {o.symbols for o in operators.operators() if o.name == "ne"} == {("!=", "≠")}


def test_operators_are_listed_from_loose_to_tight() -> None:
    """Between two that stand in different rows, brackets around the tighter one say nothing."""
    infix = [o for o in operators.operators() if re.fullmatch(r"\w \S+ \w", o.example)]
    assert len({o.binds for o in infix}) == 3
    for loose in infix:
        for tight in infix:
            a, b = loose.symbols[0], tight.symbols[0]
            if [o.binds for o in infix].index(loose.binds) < [o.binds for o in infix].index(
                tight.binds
            ):
                assert parse_text(f"x {a} y {b} z") == parse_text(f"x {a} (y {b} z)")
                assert parse_text(f"x {b} y {a} z") == parse_text(f"(x {b} y) {a} z")


@pytest.mark.parametrize("o", operators.operators(), ids=lambda o: o.name)
def test_the_other_ways_of_writing_an_operator_mean_the_same(o: operators.Operator) -> None:
    for other in o.symbols[1:]:
        assert parse_text(o.example.replace(o.symbols[0], other)) == parse_text(o.example)


@pytest.mark.parametrize("form", clock.FORMS)
def test_every_form_of_a_clock_is_one(form: str) -> None:
    report, text = Report(), form.replace("NAME", "episode")
    scalar = Scalar(text, Span(Source("<clock>", text), 0, len(text)))
    assert (
        clock.parse_clock(scalar, report, clock.Known({"episode"}, (), "token")) is not None
        and not report.diagnostics
    )


def test_the_message_about_clocks_lists_the_same_forms() -> None:
    assert set(re.findall(r"`([^`]+)`", clock._WRITE)) == clock.FORMS.keys() - {"every NAME"}


def test_every_mapping_of_a_spec_has_a_table() -> None:
    assert set(BLOCKS) == set(Block.__subclasses__())
    kinds = {e.kind for what in reference.TABLES for e in reference.entries(what)}
    assert {f"a key of {said}" for said in BLOCKS.values()} <= kinds


def written() -> set[str]:
    """Every `key: value` of the shipped specs and of those in the documents, which are all checked."""
    texts = [path.read_text(encoding="utf-8") for path in shipped().values()]
    for page in (ROOT / "docs").glob("*.md"):
        texts += re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    found = set()

    def walk(node: yaml.Node) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            text = value.start_mark.buffer[value.start_mark.pointer : value.end_mark.pointer]
            found.add(f"{key.value}: {text.strip().strip(chr(34))}")
            walk(value)

    for text in texts:
        walk(yaml.compose(text))
    return found


def test_every_key_has_an_example_from_a_spec_that_is_checked() -> None:
    known = written()
    for model in BLOCKS:
        for key in keys_of(model):
            example = example_of(model, key)
            if example:
                assert f"{key}: {example.strip(chr(34))}" in known
            else:
                later = key == "grad_at"
                assert later or kind_of(model, key) == "text" or "names" in kind_of(model, key), key


def test_a_word_is_explained() -> None:
    text = explained("gd")
    assert "M ← M(aI − b k kᵀ) + b v kᵀ" in text and "the rule gd(lr = b, decay = a)" in text
    assert "norm at most 1" in explained("l2norm")
    found = json.loads(explained("anchor --format json"))
    assert [entry["kind"] for entry in found] == ["a key of a level", "a function"]
    assert "the number of the tick" in explained("t")


def test_a_word_that_is_nearly_one_is_meant() -> None:
    result = CliRunner().invoke(cli.main, ["explain", "convv"])
    assert result.exit_code == 2 and "did you mean conv?" in result.output
    result = CliRunner().invoke(cli.main, ["explain", "delta_nett"])
    assert result.exit_code == 1 and "did you mean `delta_net`?" in result.output


@pytest.mark.parametrize("word", ["nosuchthing", "chunk_of", "%%"])
def test_what_is_no_word_says_so_and_names_no_specs(word: str) -> None:
    result = CliRunner().invoke(cli.main, ["explain", word])
    assert result.exit_code == 2
    assert f"`{word}` is no spec and no word of the language; `nlc list`" in result.output
    assert "delta_net" not in result.output


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("@", ["matmul: an operator"]),
        ("≠", ["ne: an operator"]),
        ("‖", ["norm: an operator", "sqnorm: an operator"]),
        ("every 4 tokens", ["every n tokens: a clock"]),
        ("every chunk tokens", ["every n tokens: a clock"]),
        ("every episode", ["every NAME: a clock"]),
        ("2 per token", ["n per token: a clock"]),
        ("rank-1 affine", ["rank-1 affine: a class of levels"]),
        ("anchored", ["anchored: a plan"]),
        ("anchor", ["anchor: a key of a level", "anchor: a function"]),
        ("decay", ["decay: an argument"]),
        ("eps", ["eps: an argument"]),
        ("learned", ["learned: a word"]),
        ("W", ["W: a word"]),
    ],
)
def test_every_meaning_of_a_word_is_found(word: str, kinds: list[str]) -> None:
    assert [f"{e.name}: {e.kind}" for e in reference.find(word)] == kinds
    clocks = [e.name for e in reference.find("every") if e.kind == "a clock"]
    assert len(clocks) > 2 and clocks == [form for form in clock.FORMS if "every" in form]


def test_an_argument_is_that_of_all_that_take_it() -> None:
    (decay,) = reference.find("decay")
    assert decay.doc.startswith("of `gd`") and "of gradient descent" in decay.more()["gd"]
    (lr,) = reference.find("lr")
    takers = [e for e in reference.entries("rules") if re.search(r"\blr\b", e.usage)]
    assert lr.doc.endswith(f"and {len(takers) - 6} more") and len(lr.more()) == 6
    assert not reference.find("x"), "what stands by place alone has no name to look up"


def test_a_spec_comes_before_a_word(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLC_PATH", str(tmp_path))
    text = nlc.load("sgd").source.text.replace("system: sgd", "system: conv")
    (tmp_path / "conv.yaml").write_text(text, encoding="utf-8")
    assert explained("conv").startswith("conv by torch")
    assert explained("sgd").startswith("sgd by torch")


def test_a_table_is_filled_in_between_its_marks() -> None:
    page = "a\n<!-- nlc list reset-keys --format markdown -->\nold\n<!-- end -->\nb\n"
    filled = reference.filled(page)
    assert filled == page.replace("old", reference.markdown("reset-keys"))
    assert reference.filled(filled) == filled and "| `every` |" in filled
    printed = CliRunner().invoke(cli.main, ["list", "reset-keys", "--format", "markdown"]).output
    assert printed.rstrip() in filled
    with pytest.raises(ValueError, match="no table 'nosuch'"):
        reference.filled(page.replace("reset-keys", "nosuch"))
