"""Whatever the text: coded diagnostics at places in it, or a sound system that compiles and runs.

``mutants`` changes good and bad specs, ``judge`` looks at what becomes of them. What fails prints its seed and its
text; ``python tests/judge.py SEED`` does it again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from judge import case, judge
from mutants import GOOD, mutant, text_of, tree_of

MANY = 3000  # cases
BLOCK = 100
FULL = 20  # every twentieth is printed by all backends, shown and run if it is sound; `make test-long` does so with all


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Thousands of generated files are nobody's business but this module's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def run(seed: int, full: bool) -> str:
    try:
        return case(seed, full)
    except BaseException:
        print(f"python tests/judge.py {seed}:\n{mutant(seed)!s}")
        raise


@pytest.mark.parametrize(
    "block",
    [pytest.param(i, marks=[pytest.mark.long] * (i % 4 > 0)) for i in range(MANY // BLOCK)],
)
def test_mutations(block: int) -> None:
    seeds = range(BLOCK * block, BLOCK * (block + 1))
    found = Counter(run(seed, seed % FULL == 0) for seed in seeds)
    assert len(found) > 10, "the mutations find too little"
    assert found["sound"] + found["runs"] > 5, "too few are sound"


@pytest.mark.long
@pytest.mark.parametrize("block", range(200))
def test_many_mutations(block: int) -> None:
    """Twenty thousand others, and all that are sound run."""
    for seed in range(MANY + BLOCK * block, MANY + BLOCK * (block + 1)):
        run(seed, True)


def test_mutants_are_the_same_everywhere() -> None:
    assert [mutant(seed) for seed in range(50)] == [mutant(seed) for seed in range(50)]
    for text in GOOD:  # what trees are written as is what they were read from
        tree = tree_of(text)
        assert tree is not None and tree_of(text_of(tree)) == tree


# --------------------------------------------------------------------------------- breaking out of the file

HOSTILE = [
    'a"""\nimport os\nos.abort()\n"""',
    "a'''\\\nimport os",
    '"); import os; os.abort() #',
    "\\",
    'ends with a backslash \\" and a quote "',
    "{d} {0} %s {x!r}",
    "\\N{DUCK} \\x00 \\u0000",
    "ünï¢ödé 🦆 \u202e\u2028",
    '"' * 7,
    "line\n\n    indented\n# comment\n",
    "\r\nx",
    "-->",
    "*/ // <!--",
]
PLAIN = """\
nlc: 1
system: NAME
context: tokens
doc: DOC
ref: REF
hyper:
  d: 8
inputs:
  x: [d]
levels:
  S:
    frequency: every token
    memory: matrix(d, d)
    key: linear(x, d)
    value: linear(x, d)
    objective: -dot(S(key), value)
    rule: gd(lr=0.1)
    doc: LEVELDOC
output:
  y: S(x)
"""


def quoted(text: str) -> str:
    """Double-quoted YAML, in which everything can be written."""
    escaped = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}"
        for c in text
    )
    return f'"{escaped}"'


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["NAME", "DOC", "REF", "LEVELDOC"])
def test_prose_stays_prose(key: str, text: str) -> None:
    spec = PLAIN.replace(key, quoted(text))
    for other in ("NAME", "LEVELDOC", "DOC", "REF"):
        spec = spec.replace(f": {other}\n", ": plain\n")
    expected = (
        ("NLC106", "NLC006") if key == "NAME" and not text.strip().isidentifier() else ("sound",)
    )
    assert judge(spec) in (*expected, "NLC006")


@pytest.mark.parametrize("name", [*HOSTILE, "a/b.yaml", "a b", "'", "<text>"])
def test_the_name_of_the_file_stays_a_name(name: str) -> None:
    assert judge(PLAIN.replace("NAME", "plain"), name) == "sound"


@pytest.mark.parametrize(
    "name",
    "class lambda None True self torch nn F math init x y S state dtype device W g step params group"
    " closure loss lr forward training super print __init__ zip range len str key value heads".split(),
)
def test_words_of_python_and_torch_as_names(name: str) -> None:
    """As a hyper, a let, a level, a system, an input and an output each: refused by code, or harmless."""
    spec = PLAIN.replace("NAME", "plain")
    texts = [
        re.sub(r"\bd\b", name, spec.replace("gd", "GD")).replace("GD", "gd"),
        re.sub(r"\bS\b", name, spec),
        spec.replace("system: plain", f"system: {name}"),
        re.sub(r"\bx\b", name, spec),
        spec.replace("  y: S(x)", f"  {name}: S(x)"),
        spec.replace("levels:", f"let:\n  {name}: tanh(x)\nlevels:").replace("S(x)", f"S({name})"),
    ]
    for text in texts:
        judge(text)


# ----------------------------------------------------------------------------------------- large and deep


def test_chains_of_lets_of_any_length() -> None:
    for body in ("a{0} + x", "a{0} + S(x)", "a{0} * a{0} + S(x)"):
        lets = "".join(f"  a{i}: {body.format(i - 1)}\n" for i in range(1, 400))
        text = PLAIN.replace("NAME", "plain").replace("levels:", f"let:\n  a0: x\n{lets}levels:")
        judge(text.replace("S(key)", "a399"))
        backwards = "".join(f"  a{i}: {body.format(i + 1)}\n" for i in range(400))
        text = PLAIN.replace("NAME", "plain").replace(
            "levels:", f"let:\n{backwards}  a400: x\nlevels:"
        )
        judge(text.replace("S(key)", "a0"))


def test_chains_of_hypers_and_large_constants() -> None:
    text = PLAIN.replace("NAME", "plain")
    for body in ("h{0}", "h{0} * h{0}", "2**h{0}", "h{0} / 3", "[h{0}, 1]", "-h{0}"):
        hypers = "".join(f"  h{i}: {body.format(i + 1)}\n" for i in range(600))
        judge(text.replace("hyper:\n", f"hyper:\n{hypers}  h600: 3\n").replace("lr=0.1", "lr=h0"))
    sizes = " * ".join(f"(d + a{i})" for i in range(40))
    hypers = "".join(f"  a{i}: 1\n" for i in range(40))
    judge(
        text.replace("hyper:\n", f"hyper:\n{hypers}").replace("matrix(d, d)", f"matrix({sizes}, d)")
    )


def test_families_that_multiply() -> None:
    text = PLAIN.replace("NAME", "plain")
    members = ", ".join(map(str, range(50)))
    family = f"let:\n  h[i]:\n    for: {{i: [{members}]}}\n    is: x + i\nlevels:"
    for fold in ("sum(h[i] for i)", "sum(sum(sum(h[i] for i) * h[i] for i) * h[i] for i)"):
        judge(text.replace("levels:", family).replace("y: S(x)", f"y: S({fold})"))
