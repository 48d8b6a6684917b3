"""The command line: what each verb prints and where, its exit codes, and what it must not import."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from shipped_specs import GRADIENTS, TOKENS

import nlc
from nlc import cli, pipeline
from nlc.base.codes import CODES
from nlc.cli import frame, options
from nlc.ir.classes import CLASSES, PLANS
from nlc.lib.functions import FUNCTIONS, READS
from nlc.lib.memories import MEMORIES
from nlc.lib.rules import KINDS, RULES
from nlc.pipeline import shipped
from nlc.syntax.clock import FORMS
from nlc.syntax.schema import Family, InlineMemory, Level, Reset, Route, Spec, Weight, keys_of
from nlc.syntax.values import RESERVED
from nlc.tools import catalogue
from nlc.tools.derivation import SIGNS
from nlc.tools.draw import FORMATS, TRANSFERS

ROOT = Path(__file__).parent.parent

VERBS = sorted(cli.main.commands)
WRONG = """\
nlc: 1
system: wrong
context: tokens
inputs: {x: [8]}
levels:
  S:
    frequency: every token
    memory: matrix(8, 8)
    objective: 0.5 * sqnrom(S(x) - x)
    rule: gd(lr=rate)
output: S(x)
"""
UNUSED = WRONG.replace("sqnrom", "sqnorm").replace("rate", "0.1") + "let:\n  z: x + 1\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NLC_PATH", raising=False)
    (tmp_path / "wrong.yaml").write_text(WRONG)
    (tmp_path / "unused.yaml").write_text(UNUSED)


def run(line: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, line.split(), input=text, prog_name="nlc")


# What a shipped spec is warned of, on purpose: its `doc` says why.
WARNED = {"hope_literal": "NLC805"}


def printed(line: str, text: str | None = None, like: str = "") -> str:
    """Standard output of a command that must succeed and warn of nothing but what is known of the spec."""
    result = run(line, text)
    said = set(re.findall(r"^(?:(?:warning|error)\[|{\"code\":\")(NLC\d+)", result.stderr, re.M))
    known = {code for name, code in WARNED.items() if name in (*line.split(), like)}
    assert (result.exit_code, said) == (0, known), result.output
    assert known or not result.stderr, result.output
    return result.stdout


# ---------------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_specs_pass_check(name: str) -> None:
    assert name in printed(f"check {name}")


def test_check_takes_several_specs_and_goes_on_after_a_wrong_one() -> None:
    result = run("check wrong.yaml nosuch adamw")
    assert result.exit_code == 1
    assert "adamw" in result.stdout
    assert "NLC202" in result.stderr and "NLC207" in result.stderr


def test_mistakes_go_to_stderr_all_at_once() -> None:
    result = run("check wrong.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.findall(r"^(\w+)\[(NLC\d+)\]", result.stderr, re.M) == [
        ("error", "NLC202"),
        ("error", "NLC201"),
    ]
    assert "wrong.yaml:9:22" in result.stderr and "did you mean `sqnorm`?" in result.stderr


def test_a_warning_is_said_and_does_not_fail() -> None:
    for line in ("check unused.yaml", "graph unused.yaml", "derive unused.yaml"):
        result = run(line)
        assert result.exit_code == 0
        assert "warning[NLC210]" in result.stderr and "NLC210" not in result.stdout
    assert run("check unused.yaml").stdout.endswith("system with 2 warnings\n")


def test_check_as_json_is_one_object_a_line() -> None:
    result = run("check wrong.yaml --format json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, result.stderr) == (1, "")
    assert [row["code"] for row in rows] == ["NLC202", "NLC201"]
    assert {row["file"] for row in rows} == {"wrong.yaml"}
    start, end = rows[0]["range"]["start"], rows[0]["range"]["end"]
    assert (start["line"], end["character"] - start["character"]) == (8, len("sqnrom"))
    assert printed("check adamw --format json") == ""


def test_check_as_github_annotations() -> None:
    lines = run("check wrong.yaml --format github").stdout.splitlines()
    assert [line.split(",")[:2] for line in lines] == [
        ["::error file=wrong.yaml", "line=9"],
        ["::error file=wrong.yaml", "line=10"],
    ]


# ---------------------------------------------------------------------------------------------- graph


def test_graph_with_an_optimizer_has_three_levels() -> None:
    text = printed("graph gated_delta_net --optimizer adamw")
    levels = json.loads(printed("graph gated_delta_net --optimizer adamw --format json"))
    assert levels["levels"] == [["S"], ["m", "v"], ["W"]]
    assert [m[1] for m in re.finditer(r"^(\d) +every", text, re.M)] == ["1", "2", "3"]


def test_graph_runs_from_memories_of_tokens_down_to_the_slow_momentum() -> None:
    line = "graph hope --optimizer m3_ema"
    levels = json.loads(printed(f"{line} --format json"))["levels"]
    memories = ["M_k", "M_v", "M_eta", "M_alpha", "M_memory"]
    assert levels == [memories, ["cms.C_1"], ["cms.C_2"], ["cms.C_3"], ["M1"], ["V"], ["W"], ["M2"]]
    text = printed(line)
    assert [m[1] for m in re.finditer(r"^\d  (every [^─]*) ─", text, re.M)] == [
        "every token",
        "every 64 tokens (periods[0])",
        "every 256 tokens (periods[1])",
        "every 1024 tokens (periods[2])",
        *["every step"] * 3,
        "every 8 steps (f)",
    ]
    trained = re.search(r"^   W +→ (.*?)   held", text, re.M)
    assert trained and trained[1].strip() == "M_k, M_v, M_eta, M_alpha,"


def test_graph_says_which_rule_takes_which_tensors() -> None:
    line = f"graph {ROOT / 'examples' / 'm3_with_adamw.yaml'} --format json"
    rules = {c["name"]: c["rule"] for c in json.loads(printed(line))["components"]}
    assert rules["W"] == "matrices: m3_ema(lr=lr); rest: adamw(lr=rest_lr)"


@pytest.mark.parametrize("name", sorted(shipped()))
def test_graph_in_every_format(name: str) -> None:
    assert json.loads(printed(f"graph {name} --format json"))["system"] == name
    assert ET.fromstring(printed(f"graph {name} --format svg")).tag.endswith("svg")
    assert printed(f"graph {name} --format dot").startswith(("digraph", "strict digraph"))
    assert "flowchart" in printed(f"graph {name} --format mermaid")
    assert printed(f"graph {name}").startswith(name)


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("graph gla -o g.svg", "<svg"),
        ("graph gla -o g.html", "<!doctype html>"),
        ("graph gla -o g.txt", "gla\n"),
        ("graph gla -o g", "gla\n"),
        ("graph gla -o g.png --format svg", "<svg"),
        ("derive gla -o d.tex", "%"),
        ("derive gla -o d.json", "{"),
    ],
)
def test_the_ending_of_a_file_says_the_format(line: str, start: str) -> None:
    assert run(line).exit_code == 0
    assert Path(line.split()[3]).read_text(encoding="utf-8").startswith(start)


def test_an_ending_of_no_format_is_refused() -> None:
    found = run("graph gla -o g.png")
    assert found.exit_code == 2 and "no format is written to *.png" in found.stderr
    assert not Path("g.png").exists()


def test_graph_offers_the_formats_that_draw_has() -> None:
    option = next(p for p in cli.main.commands["graph"].params if p.name == "format")
    assert set(option.type.choices) == {*FORMATS, "html", "github"}


# Every verb that reads a spec, and what it needs beside it to come that far.
READERS = {
    "check": "", "fmt": "", "graph": "", "derive": "", "compile": "", "verify": "", "explain": "",
    "kernels": "", "tune": "", "bench": "", "new": "made --like",
}  # fmt: skip


def test_readers_are_all_verbs_that_read_specs() -> None:
    assert set(READERS) == set(cli.main.commands) - {"list", "schema"}


@pytest.mark.parametrize("verb", READERS)
def test_every_verb_says_mistakes_as_programs_read_them(verb: str) -> None:
    Path("broken.yaml").write_text(WRONG.replace("rate", "1 +"))
    reads = verb not in ("new", "fmt")
    name = "nowhere.yaml" if verb == "new" else "wrong.yaml" if reads else "broken.yaml"
    line = f"{verb} {READERS[verb]} {name}"
    result = run(f"{line} --format json")
    codes = [json.loads(text)["code"] for text in result.stdout.splitlines()]
    assert result.exit_code == 1 and codes and not result.stderr
    result = run(f"{line} --format github")
    assert [re.search(r"title=(\w+)", x)[1] for x in result.stdout.splitlines()] == codes
    assert result.exit_code == 1 and not result.stderr


@pytest.mark.parametrize("verb", ["graph", "derive", "compile", "explain"])
def test_warnings_stand_beside_the_product(verb: str) -> None:
    product = run(f"{verb} unused.yaml").stdout
    result = run(f"{verb} unused.yaml --format github")
    assert (result.exit_code, result.stdout) == (0, product)
    assert result.stderr.startswith("::warning file=unused.yaml,")
    result = run(f"{verb} unused.yaml --format json")
    assert (
        result.exit_code == 0 and json.loads(result.stderr.splitlines()[0])["severity"] == "warning"
    )


def test_graph_of_a_wrong_spec_as_json_says_so_as_json() -> None:
    result = run("graph wrong.yaml --format json")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["code"] == "NLC202"


# ---------------------------------------------------------------------------------------------- derive


def test_derive_ends_with_the_update() -> None:
    assert "S ← αS(I − β k kᵀ) + β v kᵀ" in printed("derive gated_delta_net")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_derive_says_something_of_every_system(name: str) -> None:
    result = run(f"derive {name}")
    assert result.exit_code == 0 and result.output.strip()


def test_derive_of_one_level() -> None:
    every = printed("derive adamw").split("\n\n")
    assert [part.split(",")[0] for part in every] == ["m", "v", "W"]
    assert printed("derive adamw v").strip() == every[1].strip()


def test_derive_of_a_family() -> None:
    """Its name stands for all of its members."""
    members = printed("derive hope M").split("\n\n")
    assert [part.split(",")[0] for part in members] == [
        "M_k",
        "M_v",
        "M_eta",
        "M_alpha",
        "M_memory",
    ]
    assert [*json.loads(printed("derive cms_sequential C --format json"))] == ["C_1", "C_2", "C_3"]
    assert run("derive hope C_").exit_code == 2


def test_a_name_whose_file_lies_here(tmp_path: Path) -> None:
    """The suffix is missing, and the name alone has no place in a text."""
    (tmp_path / "my_lion.yaml").write_text(shipped()["lion"].read_text("utf-8"))
    result = run("check my_lion")
    assert result.exit_code == 1 and "did you mean `my_lion.yaml`?" in result.stderr
    assert "-->" not in result.stderr and len(run("check qqqqqqqq").stderr) < 300


@pytest.mark.parametrize("name", sorted(shipped()))
def test_latex_is_balanced(name: str) -> None:
    text = re.sub(r"(?m)^%.*$|\\\\|\\[{}]", "", printed(f"derive {name} --format latex"))
    open_groups: list[str] = []
    for token in re.finditer(r"\\(begin|end)\{(\w+\*?)\}|\\(left|right)(?![a-z])|([{}])", text):
        kind, name_, side, brace = token.groups()
        if kind == "begin" or side == "left" or brace == "{":
            open_groups.append(name_ or side or brace)
        else:
            expected = name_ or {"right": "left", "}": "{", None: None}[side or brace]
            assert open_groups and open_groups.pop() == expected, f"{token[0]} in\n{text}"
    assert open_groups == []


@pytest.mark.parametrize("name", ["adamw", "hope", "titans", "cms_nested"])
def test_a_derivation_in_markdown_is_that_in_latex(name: str) -> None:
    latex, markdown = (printed(f"derive {name} --format {f}") for f in ("latex", "markdown"))
    rows = re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end", latex, re.S)
    assert (
        re.findall(r"\$\$\n\\begin\{aligned\}\n(.*?)\n\\end\{aligned\}\n\$\$", markdown, re.S)
        == rows
    )
    assert len(re.findall(r"^#### `[\w.]+`, ", markdown, re.M)) == len(rows)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_latex_is_ascii_and_keeps_mathematics_out_of_text(name: str) -> None:
    text = re.sub(r"(?m)^%.*$", "", printed(f"derive {name} --format latex"))
    assert text.isascii()
    for prose in _arguments(text, r"\text{"):
        outside = "".join(prose.split("$")[::2])
        assert not re.search(r"\\(?!_)", outside), f"\\text{{{prose}}} needs $"


def _arguments(text: str, command: str) -> list[str]:
    """What stands in the braces after a command."""
    out = []
    for start in (m.end() for m in re.finditer(re.escape(command), text)):
        depth, end = 1, start
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        out.append(text[start : end - 1])
    return out


# ---------------------------------------------------------------------------------------------- compile


@pytest.mark.parametrize("name", sorted(shipped()))
def test_compile_prints_a_file_that_needs_torch_alone(name: str) -> None:
    tree = ast.parse(printed(f"compile {name}"))
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(str(node.module).split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.parametrize("name, none", [("rwkv7", True), ("linear_attention", False)])
def test_compile_says_where_the_backend_of_kernels_has_none(name: str, none: bool) -> None:
    result = run(f"compile {name} --backend triton -o made.py")
    assert ("nothing in it runs as a kernel" in result.stderr) == none
    assert ("import triton" in Path("made.py").read_text()) != none


def test_compile_to_a_file_says_so_on_stderr() -> None:
    result = run("compile sgd -o out/made.py")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "out/made.py" in result.stderr
    assert Path("out/made.py").read_text() == printed("compile sgd")


CORES_WITH_WEIGHTS = {"cms_sequential", "titans", "ttt_mlp"}
CORES_WITH_WEIGHTS |= {"hope", "hope_attention", "hope_literal", "hope_slow"}


@pytest.mark.parametrize("name", TOKENS)
def test_compile_the_operator(name: str) -> None:
    """It has no slow weights but those that stand inside its loop."""
    text = printed(f"compile {name} --operator")
    loop = text.partition("with torch.autocast(")[2]
    for own in re.findall(r"self\.([\w.]+) = nn\.(?:Parameter|Linear)", text):
        named = own.split(".value.")[0]  # of several levels alike, by name
        assert f"self.{own}" in loop or f'"{named}"' in loop
        assert not own.endswith(".init")


def test_the_backends_are_those_of_the_pipeline() -> None:
    for verb in ("compile", "explain"):
        option = next(p for p in cli.main.commands[verb].params if p.name == "backend")
        assert set(option.type.choices) == {"auto", *pipeline.BACKENDS}


# ---------------------------------------------------------------------------------------------- list, new, schema


TABLES = {
    "specs": set(shipped()),
    "keys": set(keys_of(Spec)),
    "level-keys": set(keys_of(Level)),
    "weight-keys": set(keys_of(Weight)),
    "reset-keys": set(keys_of(Reset)),
    "memory-keys": set(keys_of(InlineMemory)),
    "route-keys": set(keys_of(Route)),
    "family-keys": set(keys_of(Family)),
    "functions": {*FUNCTIONS, *READS},
    "memories": set(MEMORIES),
    "rules": {*RULES, *GRADIENTS},
    "tensors": set(KINDS),
    "clocks": set(FORMS),
    "classes": set(CLASSES),
    "plans": set(PLANS),
    "reads": {"same-tick", "previous-tick", "held"},
    "transfers": set(TRANSFERS),
    "signs": set(SIGNS),
    "words": set(RESERVED),
    "codes": set(CODES),
}
OTHERS = {"operators", "letters", "names"}  # tests/test_reference.py looks at them


@pytest.mark.parametrize("what", TABLES)
def test_list_is_complete_and_says_something_of_each(what: str) -> None:
    rows = json.loads(printed(f"list {what} --format json"))
    assert {row["name"].partition("(")[0] for row in rows} == TABLES[what]
    assert len(rows) == len(TABLES[what])
    assert all(row["doc"] for row in rows)
    text = printed(f"list {what}")
    assert all(row["name"] in text and row["doc"] in text for row in rows)


def test_every_table_is_looked_at() -> None:
    assert set(catalogue.TABLES) == TABLES.keys() | OTHERS
    assert options.TABLES == catalogue.TABLES


def test_list_shows_the_specs_if_nothing_is_named() -> None:
    assert printed("list") == printed("list specs")


@pytest.mark.parametrize("like", sorted(shipped()))
def test_new_makes_a_spec_that_passes_check(like: str) -> None:
    assert "sub/mine.yaml" in run(f"new sub/mine --like {like}").stdout
    assert "mine" in printed("check sub/mine.yaml", like=like)
    assert nlc.load("sub/mine.yaml").system.name == "mine"


def test_new_overwrites_nothing() -> None:
    result = run("new wrong.yaml")
    assert result.exit_code == 2 and "exists" in result.stderr
    assert Path("wrong.yaml").read_text() == WRONG


def test_schema_is_json_with_every_key() -> None:
    made = json.loads(printed("schema"))
    keys = {*made["properties"]}
    for name in shipped():
        assert {f.split(":")[0] for f in _top_keys(name)} <= keys


def _top_keys(name: str) -> list[str]:
    text = shipped()[name].read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line[:1].isalpha()]


# ---------------------------------------------------------------------------------------------- input, output, colour


@pytest.mark.parametrize("verb", ["check", "graph", "derive", "explain", "compile"])
def test_a_dash_is_standard_input(verb: str) -> None:
    text = shipped()["sgd"].read_text(encoding="utf-8")
    from_input = printed(f"{verb} -", text).replace("<stdin>", "sgd.yaml")
    Path("sgd.yaml").write_text(text, encoding="utf-8")
    assert from_input == printed(f"{verb} sgd.yaml")


def test_mistakes_of_standard_input_are_placed_in_it() -> None:
    assert "<stdin>:9:22" in run("check -", WRONG).stderr


@pytest.mark.parametrize("verb", ["graph", "derive", "schema"])
def test_output_goes_to_a_file(verb: str) -> None:
    line = verb if verb == "schema" else f"{verb} sgd"
    result = run(f"{line} -o deep/made")
    assert (result.exit_code, result.stdout) == (0, "")
    assert Path("deep/made").read_text(encoding="utf-8").rstrip() == printed(line).rstrip()


def test_colour_only_on_a_terminal_and_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self, is_one: bool):
            self.isatty = lambda: is_one

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert frame._color(Terminal(True))
    assert not frame._color(Terminal(False))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not frame._color(Terminal(True))
    monkeypatch.setattr(frame, "_color", lambda stream: True)
    assert "\x1b[" in CliRunner().invoke(cli.main, ["check", "wrong.yaml"], color=True).stderr


def test_a_closed_pipe_is_no_mistake() -> None:
    made = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "from nlc.cli import main; main()" list codes | true'],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert made.stderr == ""


# ---------------------------------------------------------------------------------------------- exit codes


MISTAKES = [
    "check nosuch",
    "check ./nosuch.yaml",
    "check .",
    "check wrong.yaml",
    "graph wrong.yaml",
    "derive wrong.yaml",
    "compile wrong.yaml",
    "compile adamw --operator",
    "compile delta_net --plan S=anchored",
    "explain wrong.yaml",
    "graph gated_delta_net --optimizer nosuch",
    "new mine --like nosuch",
    "compile sgd -o wrong.yaml/made.py",
    "graph sgd -o wrong.yaml/made.svg",
]
USAGE = [
    "",
    "nosuch",
    "check",
    "graph",
    "check adamw --format nosuch",
    "graph adamw --format png",
    "graph adamw --optimizer adamw",
    "graph delta_net --optimizer delta_net",
    "derive adamw nosuch",
    "compile adamw --backend nosuch",
    "compile delta_net --plan S",
    "compile delta_net --plan S=nosuch",
    "explain NLC999",
    "list nosuch",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_ends_with_one_and_without_traceback(line: str) -> None:
    result = run(line)
    assert result.exit_code == 1, result.output
    assert result.stdout == "" and result.stderr.strip()
    assert "Traceback" not in result.output and "internal error" not in result.output


@pytest.mark.parametrize("line", USAGE)
def test_wrong_usage_ends_with_two(line: str) -> None:
    result = run(line)
    assert result.exit_code == 2, result.output
    assert "Usage: nlc" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    "text", ["", "\x00", "nlc: 1", "- a", "{", "nlc: 1\n\tx: 2", "\ufeff", "a: &b 1"]
)
def test_no_text_gives_a_traceback(text: str) -> None:
    for verb in ("check", "graph", "derive", "explain", "compile"):
        result = run(f"{verb} -", text)
        assert result.exit_code == 1, result.output
        assert re.search(r"error\[NLC[0-8]\d\d\]", result.stderr), result.output


def test_bytes_that_are_no_text() -> None:
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00nlc: 1")
    assert "error[NLC0" in run("check bytes.yaml").stderr


BROKEN = {
    "check sgd": "pipeline.derive",
    "graph sgd": "passes.link.link",
    "derive sgd": "pipeline.infer",
    "compile sgd": "passes.lower.lower",
    "explain delta_net": "passes.plan.asked.requested",
}


@pytest.mark.parametrize(("line", "stage"), BROKEN.items())
def test_a_bug_of_ours_ends_with_three(
    line: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"nlc.{stage}", lambda *args, **keywords: 1 / 0)
    result = run(line)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "internal error[NLC901]: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(run(f"--debug {line}").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chek adamw", "there is no verb `chek`; did you mean `check`?"),
        ("explian adamw", "did you mean `explain`?"),
        ("adamw", "there is no verb `adamw`; did you mean `nlc check adamw`?"),
        ("wrong.yaml", "did you mean `nlc check wrong.yaml`?"),
        ("xyz", "verbs: bench, check, compile"),
        ("check --fromat json adamw", "--format"),
        ("check --fx adamw", "--fix"),
        ("check --format jsn adamw", "'text', 'json', 'github'"),
    ],
)
def test_misspelt_verbs_and_options_are_usage(line: str, said: str) -> None:
    result = run(line)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


# ---------------------------------------------------------------------------------------------- imports, help


IMPORTS = """
import sys
from click.testing import CliRunner
from nlc.cli import main
for line in {lines!r}:
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "triton", "sympy", "numpy"}}))
"""


def test_check_imports_what_it_needs() -> None:
    """It is run at every save of a file: half a second is its limit, and networkx alone takes a tenth."""
    code = IMPORTS.replace('"numpy"', '"numpy", "networkx", "rich"').format(lines=["check hope m3"])
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (made.returncode, made.stdout.strip()) == (0, ""), made.stderr


def test_check_graph_and_explain_import_no_torch() -> None:
    lines = ["check gated_delta_net adamw", "graph gated_delta_net --optimizer adamw"]
    lines += ["explain hope", "explain adamw", "explain NLC601"]
    lines += [f"graph attention --format {f}" for f in FORMATS] + ["list functions", "--help"]
    made = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(lines=lines)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (made.returncode, made.stdout.strip()) == (0, ""), made.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_has_help(verb: str) -> None:
    text = printed(f"{verb} --help")
    assert f"Usage: nlc {verb}" in text
    command = cli.main.commands[verb]
    assert command.help
    missing = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
    assert missing == []
    assert verb in printed("--help")


def test_tuning_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for line, said in (("delta_net", "no CUDA device"), ("adamw", "is for token systems")):
        result = run(f"tune {line} --tokens 64 --batch 2 --dtype float32 --format json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr and "Usage: nlc tune" in result.stderr
    assert run("tune wrong.yaml").exit_code == 1


def test_version_also_as_a_module() -> None:
    assert nlc.__version__ in printed("--version")
    made = subprocess.run(
        [sys.executable, "-m", "nlc", "--version"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert made.stdout == printed("--version"), made.stderr
