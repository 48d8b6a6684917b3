"""Typed expressions -> the paper's notation, as Unicode text or LaTeX.

``½‖S k − v‖²``, ``αS(I − β k kᵀ) + β v kᵀ``: for people. The form that is parsed again is ``show``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from nlc.base.greek import GREEK
from nlc.ir.expr import Expr
from nlc.ir.system import System

# LaTeX has no \omicron
_GREEK = {name: ch for name, ch in GREEK.items() if name != "omicron"} | {"eps": GREEK["epsilon"]}
_SUB = str.maketrans("0123456789aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
_SUP = str.maketrans("0123456789-+.tTn", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺·ᵗᵀⁿ")
_HALVES = {0.5: "½", 0.25: "¼"}
ADD, DIV, MUL, POW, ATOM = range(1, 6)  # how tightly a text binds; a quotient looser than `a b`


def _scripted(text: str, table) -> str | None:
    out = text.translate(table)
    return out if not any(ch in text and ch == out[i] for i, ch in enumerate(text)) else None


_SIDE = re.compile(r"\b(rows|cols)\(")  # sizes of a trained tensor, which a spec writes `nrows(W)`


@dataclass(frozen=True)
class Notation:
    """Symbols for the names of one system; ``own`` is the level whose state before the tick is written bare."""

    system: System
    latex: bool = False
    own: str | None = None
    plain_base: bool = False  # write B as the state itself, where the step starts from it unchanged
    marked: bool = True  # write the own state before the tick as W⁻, to tell it from the variable

    # -------------------------------------------------------------------------------------------- symbols

    def symbol(self, name: str) -> str:
        """``S.key`` is k (k_S where several levels have keys), ``beta1`` β₁, ``m_hat`` m̂."""
        level, _, inner = name.rpartition(".")
        if inner in ("key", "value") and level:
            letter = inner[0]
            several = sum(f"{n}.{inner}" in self.system.flows for n in self.system.levels) > 1
            bare = not several or (level == self.own and self._free(letter, name))
            return letter if bare else self._subscript(letter, self._short(level))
        if level and inner in ("lr", "decay", "retain"):
            return self._word(inner)
        if level:
            state = name in self.system.states
            clash = (
                sum(
                    s.rpartition(".")[2] == inner for s in (*self.system.flows, *self.system.states)
                )
                > 1
            )
            if clash and not state:
                return self._subscript(self.symbol(inner), level)
            if (
                clash and "." in level and level not in self.system.levels
            ):  # of a rule of several states
                return self._subscript(self.symbol(inner), self.symbol(level))
            return self.symbol(inner)
        if name.endswith("_hat"):
            base = self.symbol(name[:-4])
            return rf"\hat{{{base}}}" if self.latex else f"{base}\u0302"
        match = re.fullmatch(r"([A-Za-z]+?)_?(\d+)", name)
        if match:
            return self._subscript(self.symbol(match[1]), match[2])
        head, _, tail = name.partition("_")
        if tail and (len(head) == 1 or head in _GREEK):
            return self._subscript(self.symbol(head), tail)
        if name in _GREEK:
            return ("\\" + {"eps": "epsilon"}.get(name, name)) if self.latex else _GREEK[name]
        return name if len(name) == 1 else self._word(name)

    def _short(self, level: str) -> str:
        """A level of a used system without that system's name, where no other ends alike."""
        last = level.rpartition(".")[2]
        alike = sum(name.rpartition(".")[2] == last for name in self.system.levels)
        return last if alike == 1 else level

    def _free(self, letter: str, flow: str) -> bool:
        """Whether a letter can stand for a level's own flow: nothing else is called so."""
        system = self.system
        taken = letter in system.flows or letter in system.inputs or letter in system.hypers
        same = system.flows[flow].expr
        return not taken or (same.op in ("flow", "input") and same.attr == letter)

    @property
    def _ell(self) -> str:
        return r"\ell" if self.latex else "ℓ"

    def _word(self, name: str) -> str:
        return rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}" if self.latex else name

    def _subscript(self, base: str, text: str) -> str:
        if self.latex:
            plain = len(text) == 1 or text.isdigit() or "{" in text  # the last is written already
            text = text if plain else self._word(text)
            at = _script(base)
            if at is not None and base[at] == "_":  # a second subscript is none to LaTeX
                return f"{base[:at]}_{{{base[at + 2 : -1]},{text}}}"
            return f"{base}_{{{text}}}"
        return base + (_scripted(text, _SUB) or f"_{text}")

    def state(self, attr: tuple[str, str]) -> str:
        name, time = attr
        text = self.symbol(name)
        mine = self.own is not None and (name == self.own or name.startswith(f"{self.own}."))
        level, _, inner = name.rpartition(".")
        if self.own is not None and not mine and level in self.system.levels:
            text = self._subscript(self.symbol(inner), self.symbol(level))
        if time == "base" and mine:
            if self.plain_base:
                return text
            return self._subscript("B", name.rpartition(".")[2]) if "." in name else "B"
        if time == "prev" and (self.marked or not mine):
            return f"{text}^{{-}}" if self.latex else f"{text}⁻"
        if time == "anchor":
            return self._subscript(text, "anchor")
        return text

    # -------------------------------------------------------------------------------------------- expressions

    def text(self, e: Expr) -> str:
        return self._write(e)[0]

    def inside(self, e: Expr, level: int) -> str:
        text, binds = self._write(e)
        if binds >= level:
            return text
        return rf"\left({text}\right)" if self.latex else f"({text})"

    def _write(self, e: Expr) -> tuple[str, int]:
        if e.op in ("num", "bool"):
            return self.number(e.attr), ATOM if not (
                isinstance(e.attr, int | float) and e.attr < 0
            ) else ADD
        if e.op in ("flow", "hyper", "input", "param"):
            return self.symbol(str(e.attr)), ATOM
        if e.op == "weight":
            return self.symbol(str(e.attr).rpartition(".")[2]), ATOM
        if e.op == "state":
            return self.state(e.attr), ATOM
        if e.op == "gradient":
            of = self.state((str(e.attr), "now"))
            return self._subscript(r"\nabla" if self.latex else "∇", of), ATOM
        if e.op == "objective":
            return f"{self._ell}({self.symbol(e.attr if isinstance(e.attr, str) else '')})", ATOM
        if e.op == "through":
            d, (state, level) = r"\mathrm{d}" if self.latex else "d", e.attr
            sign = r"\sum_t " if self.latex else "Σ_t "
            return f"{d}({sign}{self._ell}({self.symbol(level)})) / {d}{self.symbol(state)}", DIV
        if e.op == "initial":
            return self._subscript(self.symbol(str(e.attr)), "0"), ATOM
        if e.op == "g":
            return "g", ATOM
        if e.op == "index":
            return str(e.attr[0]), ATOM
        if e.op == "total":
            return self._over(e), MUL if e.attr[0] == "sum" else ATOM
        if e.op == "size":
            text = _SIDE.sub(r"n\1(", str(e.attr))
            return self.symbol(text), ADD if " " in text else DIV if set("*/") & {*text} else ATOM
        if e.op == "newton_schulz":
            name = self._subscript(self._word("NS"), str(e.attr.steps))
            return f"{name}({self.text(e.args[0])})", ATOM
        if e.op == "solve" and e.attr is not None:
            return f"{self._subscript(self._word('CG'), str(e.attr))}({self._list(e.args)})", ATOM
        if e.op == "recent":
            less = r"\mathrm{age} < " if self.latex else "age<"
            sign = r"\sum" if self.latex else "Σ"
            return f"{sign}_{{{less}{e.attr[0]}}} {self.inside(e.args[0], MUL)}", MUL
        if e.op == "ones":
            return "1", ATOM
        if e.op == "identity":
            return "I", ATOM
        writer = getattr(self, f"_{e.op}", None)
        return writer(*e.args) if writer else (self._call(e), ATOM)

    def number(self, value) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if value in (float("inf"), float("-inf")):
            sign = "-" if value < 0 else ""
            return sign + (r"\infty" if self.latex else "∞")
        if value in _HALVES:
            return rf"\tfrac{{1}}{{{round(1 / value)}}}" if self.latex else _HALVES[value]
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        if "e" in text:
            mantissa, exponent = text.split("e")
            power = (
                f"10^{{{int(exponent)}}}"
                if self.latex
                else "10" + str(int(exponent)).translate(_SUP)
            )
            times = r"\cdot " if self.latex else "·"
            return power if mantissa == "1" else f"{mantissa}{times}{power}"
        return text

    def _call(self, e: Expr) -> str:
        owned = f"{e.attr}."  # the slow weights of a linear go without saying
        args = ", ".join(
            self.text(a) for a in e.args if a.op != "weight" or not str(a.attr).startswith(owned)
        )
        name = self._word(
            {"maximum": "max", "minimum": "min", "amax": "max", "amin": "min", "delay": "prev"}.get(
                e.op, e.op
            )
        )
        if e.op in ("l2norm", "rotary", "norm") and len(e.args) > 1:
            keep = 1 if e.op != "rotary" else 2
            args = ", ".join(self.text(a) for a in e.args[:keep])
        if e.op == "attend":
            return f"{self.symbol(e.attr[0])}({self.text(e.args[0])})"
        if e.op == "split" and e.attr is not None:
            args = f"{args}, {e.attr}"
        if e.op == "slice":
            bounds = f"{e.attr[0]}:{e.attr[1]}"
            x = self.inside(e.args[0], POW)
            if not self.latex:
                return f"{x}[{bounds}]"
            at = _script(x)  # a second subscript is none to LaTeX
            if at is not None and x[at] == "_":
                return f"{x[:at]}_{{{x[at + 2 : -1]},{bounds}}}"
            return f"{x}_{{{bounds}}}"
        if e.op == "slope":
            return self._word(e.attr) + ("'" if self.latex else "′") + f"({args})"
        return f"{name}({args})"

    def _list(self, args: Iterable[Expr]) -> str:
        return ", ".join(map(self.text, args))

    @property
    def minus(self) -> str:
        return "-" if self.latex else "−"

    def _neg(self, x: Expr) -> tuple[str, int]:
        return f"{self.minus}{self.inside(x, DIV)}", ADD

    def _spread(self, x: Expr) -> Expr:
        """A vector beside the columns (or rows) of a matrix that it is added to: ``b 1ᵀ``."""
        if x.op not in ("per_key", "per_value"):
            return x
        one = Expr("num", (), 1)
        pair = (x.args[0], one) if x.op == "per_value" else (one, x.args[0])
        return Expr("outer", pair, None, x.type)

    def _add(self, a: Expr, b: Expr) -> tuple[str, int]:
        a, b = self._spread(a), self._spread(b)
        return f"{self.text(a)} + {self.inside(b, ADD if not _leads_minus(b) else DIV)}", ADD

    def _sub(self, a: Expr, b: Expr) -> tuple[str, int]:
        a, b = self._spread(a), self._spread(b)
        return f"{self.text(a)} {self.minus} {self.inside(b, DIV)}", ADD

    def _mul(self, a: Expr, b: Expr) -> tuple[str, int]:
        if a == b:
            return self._power(a, "2"), POW
        for x, y in ((a, b), (b, a)):
            if x.op == "ones":
                return self._write(y)
        for x, y in ((a, b), (b, a)):
            if x.op == "per_key":
                return f"{self.inside(y, MUL)} {self._factor(x.args[0])}", MUL
            if x.op == "per_value":
                return f"{self._factor(x.args[0])} {self.inside(y, MUL)}", MUL
        scalar = () in (a.type.dims, b.type.dims) if a.type and b.type else True
        if not scalar:
            times = r"\odot" if self.latex else "⊙"
            return f"{self.inside(a, MUL)} {times} {self.inside(b, MUL)}", MUL
        right, binds = self._write(b)  # a quotient may stand last: a b / c
        right = right if binds == DIV else self.inside(b, MUL)
        return f"{self.inside(a, MUL)}{self.joint(a, b)}{right}", DIV if binds == DIV else MUL

    def joint(self, a: Expr, b: Expr) -> str:
        """What stands between two factors: nothing after ½, a dot where a space would run words together."""
        if (
            a.op == "num"
            and (b.op in ("sqnorm", "dot", "norm") or a.attr in _HALVES)
            and not self.latex
        ):
            return ""
        gap = r"\," if self.latex else " "
        if b.op == "num":
            return self.dot
        return self.beside(self.inside(a, MUL), self.text(b), gap)

    @property
    def dot(self) -> str:
        return r"\cdot " if self.latex else "·"

    def beside(self, left: str, right: str, gap: str) -> str:
        """What stands between two texts that are multiplied: ``gap``, or a dot where it would run words together."""
        return self.dot if _ends_word(left) and _starts_word(right) else gap

    def _factor(self, x: Expr) -> str:
        return (r"\operatorname{Diag}" if self.latex else "Diag") + f"({self.text(x)})"

    def _per_key(self, x: Expr) -> tuple[str, int]:
        return self._factor(x), ATOM

    def _per_value(self, x: Expr) -> tuple[str, int]:
        return self._factor(x), ATOM

    def _diag(self, x: Expr) -> tuple[str, int]:
        return self._factor(x), ATOM

    def _div(self, a: Expr, b: Expr) -> tuple[str, int]:
        if self.latex:
            return rf"\frac{{{self.text(a)}}}{{{self.text(b)}}}", ATOM
        return f"{self.inside(a, DIV)} / {self.inside(b, POW)}", DIV

    def _power(self, base: Expr, exponent: str) -> str:
        inner = self.inside(base, ATOM)
        if self.latex:
            return f"{_closed(inner)}^{{{exponent}}}"
        return inner + (_scripted(exponent, _SUP) or f"^({exponent})")

    def _pow(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._power(a, self.text(b)), POW

    def _sqrt(self, x: Expr) -> tuple[str, int]:
        return (rf"\sqrt{{{self.text(x)}}}" if self.latex else f"√{self.inside(x, ATOM)}"), ATOM

    def _matmul(self, a: Expr, b: Expr) -> tuple[str, int]:
        left = self.inside(a, MUL)
        if a.type and a.type.rank == 1 and not a.type.like:
            return (
                f"({left})ᵀ {self.inside(b, POW)}"
                if not self.latex
                else rf"{_closed(left)}^\top {self.inside(b, POW)}",
                MUL,
            )
        return f"{left} {self.inside(b, POW)}", MUL

    def _turned(self, x: Expr) -> tuple[str, int]:
        inner = self.inside(x, ATOM)
        return rf"{_closed(inner)}^\top" if self.latex else f"{inner}ᵀ", POW

    def _inv_root(self, A: Expr, p: Expr, eps: Expr) -> tuple[str, int]:
        return self._power(A, f"{self.minus}1/{self.inside(p, POW)}"), POW

    def _T(self, x: Expr) -> tuple[str, int]:
        if x.op == "solve" and x.attr is None and _symmetric(x.args[0]):  # (A⁻¹ bᵀ)ᵀ
            A, b = x.args
            b = b.args[0] if b.op == "T" else Expr("T", (b,), None, b.type)
            return f"{self.inside(b, MUL)} {self._power(A, '-1')}", MUL
        return self._turned(x)

    def _solve(self, A: Expr, b: Expr) -> tuple[str, int]:
        return f"{self._power(A, '-1')} {self.inside(b, POW)}", MUL

    def _outer(self, a: Expr, b: Expr) -> tuple[str, int]:
        product = a.op == "mul" and all(x.type is not None and x.type.dims for x in a.args)
        return f"{self.inside(a, POW if product else MUL)} {self._T(b)[0]}", MUL

    def _dot(self, a: Expr, b: Expr) -> tuple[str, int]:
        inner = f"{self.text(a)}, {self.text(b)}"
        return (rf"\langle {inner} \rangle" if self.latex else f"⟨{inner}⟩"), ATOM

    def _sqnorm(self, x: Expr) -> tuple[str, int]:
        return (rf"\lVert {self.text(x)} \rVert^2" if self.latex else f"‖{self.text(x)}‖²"), ATOM

    def _norm(self, x: Expr, p: Expr) -> tuple[str, int]:
        bars = rf"\lVert {self.text(x)} \rVert" if self.latex else f"‖{self.text(x)}‖"
        return (
            bars if p.op == "num" and p.attr == 2 else self._subscript(bars, self.text(p))
        ), ATOM

    def _abs(self, x: Expr) -> tuple[str, int]:
        return f"|{self.text(x)}|", ATOM

    def _exp(self, x: Expr) -> tuple[str, int]:
        return f"{self._word('exp')}({self.text(x)})", ATOM

    def _over(self, e: Expr) -> str:
        mean = e.attr[0] != "sum"
        return self.over(e, self.text(e.args[0]) if mean else self.inside(e.args[0], MUL))

    def over(self, e: Expr, text: str) -> str:
        """What a ``total`` gathers, with another text in it."""
        kind = e.attr[0]
        sign = {
            "sum": r"\sum" if self.latex else "Σ",
            "mean": self._word("mean"),
            "last": self._word("last"),
        }[kind]
        one = e.args[0].type
        over = "s" if one is not None and one.clock.unit == "sample" else "t"
        return f"{sign}_{over} {text}" if kind == "sum" else f"{sign}({text})"

    def _stop(self, x: Expr) -> tuple[str, int]:
        return self._write(x)

    def _squeeze(self, x: Expr) -> tuple[str, int]:
        return self._write(x)

    _unsqueeze = _squeeze

    def _compare(self, glyph: str, latex: str, a: Expr, b: Expr) -> tuple[str, int]:
        return f"{self.text(a)} {latex if self.latex else glyph} {self.text(b)}", 0

    def _le(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._compare("≤", r"\leq", a, b)

    def _ge(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._compare("≥", r"\geq", a, b)

    def _lt(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._compare("<", "<", a, b)

    def _gt(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._compare(">", ">", a, b)

    def _eq(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._compare("=", "=", a, b)


def _symmetric(e: Expr) -> bool:
    """Whether a matrix is its own transpose by the way it is made."""
    if e.op in ("add", "mul", "total", "neg"):
        return all(_symmetric(a) for a in e.args if a.type is None or a.type.dims != ())
    return e.op == "identity" or (e.op == "outer" and e.args[0] == e.args[1])


def _leads_minus(e: Expr) -> bool:
    return e.op == "neg" or (e.op == "num" and isinstance(e.attr, int | float) and e.attr < 0)


def _ends_word(text: str) -> bool:
    """A name of several letters; ``\\beta`` is one symbol."""
    return re.search(r"(\\mathrm\{[^{}]+\}|(?<![\\A-Za-z_])[A-Za-z_]{2,})$", text) is not None


def _starts_word(text: str) -> bool:
    return re.match(r"(\\mathrm\{)?[A-Za-z_]", text) is not None


def _script(latex: str) -> int | None:
    """Where the script starts, ``_{…}`` or ``^{…}``, that a LaTeX text ends with."""
    depth = 0
    for i in range(len(latex) - 1, 0, -1):
        depth += (latex[i] == "}") - (latex[i] == "{")
        if depth == 0:
            return i - 1 if latex[i] == "{" and latex[i - 1] in "_^" else None
    return None


def _closed(latex: str) -> str:
    """What can be raised: a second superscript is none to LaTeX."""
    at = _script(latex)
    raised = at is not None and latex[at] == "^"
    return f"{{{latex}}}" if raised or re.search(r"\^(?:\\top|\w)$", latex) else latex
