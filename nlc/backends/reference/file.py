"""What both kinds of generated file share: the docstring, the statements, names that Python and torch leave free."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from nlc.backends.printed import Printed, generated_by, prose
from nlc.backends.torch_helpers import HELPERS, for_program
from nlc.backends.torch_printer import TorchPrinter
from nlc.backends.words import RESERVED
from nlc.backends.writer import WIDTH, Header, Writer, filled, listed, wrap
from nlc.base.span import Span
from nlc.ir.expr import Expr, substitute, walk
from nlc.ir.ops import leaf
from nlc.ir.program import About, Guard, Let, Loop, Program, Slot
from nlc.ir.system import System
from nlc.ir.types import Like, Type

Fresh = Callable[[str, Expr], str]  # a new name for a part of the named statement

# Public attributes of torch.nn.Module and of the generated class, which a spec's names must not hide; a test compares
# them with the installed torch.
MODULE_ATTRIBUTES = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule
    half ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters
    parameters register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu
    zero_grad step piece initial_state param_groups reset_parameters STATE checkpoint truncate
    error_if_nonfinite LEARNED SPEC LINES FLOWS
    """.split()
)
MODULE_INTERNALS = frozenset(
    """
    _apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl
    _forward_hooks _forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks
    _forward_pre_hooks_with_kwargs _get_backward_hooks _get_backward_pre_hooks _get_name
    _is_full_backward_hook _load_from_state_dict _load_state_dict_post_hooks
    _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
    _non_persistent_buffers_set _parameters _register_load_state_dict_pre_hook
    _register_state_dict_hook _replicate_for_data_parallel _save_to_state_dict _slow_forward
    _state_dict_hooks _state_dict_pre_hooks _version _wrapped_call_impl
    """.split()
)


def attribute_name(name: str) -> str:
    """A module attribute for a name of the spec."""
    return f"{name}_" if name in MODULE_ATTRIBUTES or keyword.iskeyword(name) else name


def attribute_path(path: str) -> str:
    """``S.key.linear.weight`` as an attribute of ``self``."""
    return "self." + ".".join(attribute_name(part) for part in path.split("."))


# What generated files of any backend define or import that a class could be called too.
TAKEN = frozenset(
    """
    APART BLOCK BY_GENERATION CALL CAPTURED CHANNEL_CHUNK CHUNK CONFIG COUPLED_CHUNK Callable Delta DeltaAt
    DeltaAtEnd DeltaAtEndTowards DeltaEnd DeltaEndTowards Edges F Finished GatedDelta GatedDeltaAt GatedDeltaAtEnd
    GatedDeltaAtEndTowards GatedDeltaEnd GatedDeltaEndTowards HYPERS INTERPRETED Iterator KEEPS KEPT KERNEL LARGE
    LASTING LEAST LONG LONGEST MATRICES Matrices NARROW OPERATORS Operator Optimizer PLAIN Packing Part Passes Path ROWS
    SETS SMALL SPARE STACKS Seen Sequence SiluBack Tensor ThreadPoolExecutor Through Tile VERDICTS WHOLE
    """.split()
)


def class_name(system: System) -> str:
    """``gated_delta_net`` -> ``GatedDeltaNet``, its operator form ``GatedDeltaNetOperator``."""
    name = system.name + ("_operator" if system.operator else "")
    text = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return f"{text}_" if keyword.iskeyword(text) or text in TAKEN else text


def title(system: System) -> str:
    """What the docstrings say that the system is."""
    said = prose(system.doc) or f"The system {system.name}."
    return (
        f"The recurrent core of {system.name}, its flows as inputs. {said}"
        if system.operator
        else said
    )


def quoted(text: str) -> str:
    """A text of the spec's as a Python string."""
    return json.dumps(text)


def open_file(w: Writer, system: System, header: Header, about: tuple[About, ...]) -> None:
    """The module docstring: where it is from, else what it is, which the class says too; and its levels."""
    source = prose(system.ref).rstrip(".")
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z])", title(system))[0]
    said = (
        f"{class_name(system)}. Source: {source}." if source else f"{class_name(system)}: {first}"
    )
    lines = wrap(said, WIDTH - 4)
    w('"""' + lines[0])
    for line in lines[1:]:
        w(line)
    w()
    for line in generated_by(header):
        w(line)
    if about:
        w()
        w("Levels, fastest first:")
        for x in about:
            _level(w, x)
    w('"""')
    w()


def _level(w: Writer, x: About) -> None:
    """On one line if it fits, else as many equations on each line as fit."""
    said = prose(f"{x.head}: {'; '.join(x.equations)}" if x.equations else x.head)
    if len(said) <= WIDTH - 2:
        w(f"  {said}")
    else:
        head = f"{x.head}:" if x.equations else x.head
        for line in wrap(prose(head), WIDTH - 2, "    "):
            w(f"  {line}")
        ends = [";"] * (len(x.equations) - 1) + [""]
        for line in filled([prose(e) + end for e, end in zip(x.equations, ends)], WIDTH - 6):
            w(f"      {line}")
    for other in x.others:
        for line in wrap(prose(other), WIDTH - 6, "  "):
            w(f"      {line}")


_PACKED = """Sequences packed in a batch of one, cut by ``cu_seqlens`` [N + 1], are streams of their own,
and ``state`` a list of N, since positions and caches differ; None starts one."""


def class_doc(w: Writer, program: Program, header: Header) -> None:
    """The docstring of a module's class: what it is, what goes in and what comes out; and what it can be set to."""
    system = program.system
    for i, line in enumerate(wrap(title(system), WIDTH - 8)):
        w(line if i else f'"""{line}')
    w()
    given = _shapes({n: Type(i.dims, i.head) for n, i in system.inputs.items()})
    made = _shapes({n: e.type for n, e in system.output.items()})
    made = f"{made} and" if len(system.output) == 1 else f"a dict of {made}, and"
    said = f"Takes {given}, B sequences of T tokens. Returns {made} the state of the stream, to be"
    said += " given to the next call."
    said += " ValueError where shapes do not fit." if header.has("checks") else ""
    for n, i in system.inputs.items():
        said += f" {n} holds whole numbers below {i.rows}." if i.rows is not None else ""
    packed = wrap(_PACKED, WIDTH - 4) if header.has("packed") else []
    for line in (*wrap(said, WIDTH - 4), *packed):
        w(line)
    w('"""')
    if header.has("pieces"):
        w()
        w("checkpoint: int | None = None  # tokens of a piece that the backward pass computes anew")
        w("truncate: int | None = None  # tokens behind which gradients are cut")
        w(
            "error_if_nonfinite: bool = False  # FloatingPointError with the memory and the token; slow"
        )
    if not header.has("pieces") and not header.has("checks"):
        return  # nothing says where something is declared
    w()
    declarations(w, system, program.slots)
    given = [program.embedded.get(n, n) for n in program.inputs]
    flows = " -> ".join(", ".join(names) for names in (given, system.output))
    w.words("FLOWS = ", flows.split(" "), plain=True)


def declarations(w: Writer, system: System, slots: Iterable[Slot]) -> None:
    """``SPEC`` and ``LINES``: the spec's file, and where it declares what messages name."""
    found = {n: x.span for x in (system.hypers, system.inputs) for n, x in x.items()}
    roots = dict.fromkeys(s.key.partition(".")[0] for s in slots)
    known = {**system.uses, **system.flows, **system.levels}
    for root in roots:
        parts = [known[root]] if root in known else []
        parts += [x for n, x in known.items() if n.partition(".")[0] == root]
        span = next((x.span for x in parts if x.span.source is system.source), None)
        found |= {root: span} if span is not None and root not in found else {}
    found |= {n: e.span for n, e in system.output.items() if n not in found}
    trained = [x for x in system.levels.values() if x.memory.kind == "trained"]
    if trained and "g" not in found:
        found["g"] = trained[0].span  # a gradient has no line of its own
    lines = [
        f"{n} {s.line}" for n, s in found.items() if s is not None and s.source is system.source
    ]
    w(f"SPEC = {quoted(Path(system.source.name).name)}")
    w.words("LINES = ", ", ".join(lines).split(" "), plain=True)


def _shapes(types: dict[str, Type]) -> str:
    """``q, k [B, T, heads, dk], v [B, T, heads, dv] and alpha [B, T, heads]``, names of one shape together."""
    groups: dict[str, list[str]] = {}
    for name, t in types.items():
        dims = [str(d) for d in t.dims if not isinstance(d, Like)]
        shape = ", ".join(["B", "T", *(["heads"] if t.head else []), *dims])
        groups.setdefault(f"[{shape}]", []).append(name)
    return listed([f"{', '.join(names)} {shape}" for shape, names in groups.items()])


def closed(w: Writer, texts: Iterable[str], body: Writer, header: Header, name: str) -> Printed:
    """The file of the class ``name``: its docstring, the functions that it defines for itself, the body."""
    return Printed(body.text(), w.text(), tuple(texts), name, header)


def reference_helpers(
    printer: TorchPrinter, program: Program, without: frozenset[str] = frozenset()
) -> list[str]:
    """The functions that the printed text calls."""
    texts = [t for name, t in HELPERS.items() if name in printer.helpers]
    return for_program(texts, program, without)


def ticks_now(when: Guard, counter: str, printer: TorchPrinter) -> str:
    """The condition that a tick is the last (or the first) of a period."""
    size = printer.size(when.period)
    size = f"({size})" if " " in size else size
    return f"{counter} % {size} == 0" if when.phase == "end" else f"({counter} - 1) % {size} == 0"


def place(header: Header, span: Span | None) -> str:
    """``line 18``: where in the spec a statement comes from; of a used system also ``line 18 of adamw.yaml``."""
    if span is None or (span.source.name.startswith("<") and span.source.name != header.spec):
        return ""
    name = Path(span.source.name).name
    return f"line {span.line}" + (f" of {prose(name)}" if name != header.spec else "")


def first_span(statements: Iterable[object]) -> Span | None:
    """Where the first of statements comes from that has a place, also inside of loops."""
    for x in statements:
        if isinstance(x, Loop):
            found = first_span((*x.first, *x.body))
        else:
            found = getattr(x, "span", None)
        if found is not None:
            return found
    return None


class PartNames:
    """Names for parts of a statement: what it is part of, and what it does, if that is told.

    ``whose`` is what names need not begin with, since all that stands there is about it.
    """

    WORDS: ClassVar = {
        "mul": "product",
        "matmul": "product",
        "sub": "difference",
        "add": "total",
        "div": "ratio",
    }

    def __init__(self, taken: Iterable[str]):
        self.taken = {*taken, *RESERVED, *keyword.kwlist}
        self.whose = ""

    @contextmanager
    def inside(self, whose: str, names: Iterable[str]) -> Iterator[None]:
        """Names of a function of its own, which has ``names``."""
        before = self.taken, self.whose
        self.taken, self.whose = {*self.taken, *names}, whose
        yield
        self.taken, self.whose = before

    def __call__(self, target: str, e: Expr | None = None) -> str:
        own = target.removeprefix(f"{self.whose}_")
        target = own if own.isidentifier() else target
        words = "|".join(dict.fromkeys(self.WORDS.values()))
        whole = re.sub(rf"(_({words})(_\d+)?)+$", "", target)  # parts of parts pile up no words
        base = f"{whole}_{self.WORDS.get(e.op, e.op)}" if e is not None and e.args else target
        name, n = base, 2
        while name in self.taken:
            name, n = f"{base}_{n}", n + 1
        self.taken.add(name)
        return name


def write_let(w: Writer, let: Let, printer: TorchPrinter, header: Header, fresh: Fresh) -> None:
    """A statement; one that is too long for a line is given names for its parts."""
    used = {*printer.helpers}
    parts = _narrow(let, printer, 4 * w.depth, fresh)
    printer.helpers &= used  # not what was printed to see how long it is
    for part in parts:
        target, text = ", ".join(map(printer.place, part.names)), printer(part.expr)
        if target == text:
            continue
        w.at(place(header, part.span))
        if printer.is_number(part.expr):
            printer.numbers.update(part.names)
        if 4 * w.depth + len(target) + 3 + len(text) <= WIDTH:
            w(f"{target} = {text}", part.note)
            continue
        w.comment(part.note)
        if (ending := ending_call(text)) is not None:
            start, args = ending
            end = ")"
            if 4 * w.depth + len(target) + 3 + len(start) > WIDTH:  # ``f(…).g(x)`` breaks inside f
                start, args, end = _chained(text) or (start, args, end)
            w.call(f"{target} = {start}", args, end)
        else:
            w(f"{target} = (")
            fits = 4 * w.depth + 4 + len(text) <= WIDTH
            for line in [text] if fits else _operands(text):
                w(f"    {line}")
            w(")")


def _operands(text: str) -> list[str]:
    """A sum, else a product, one operand a line behind its operator."""
    found: dict[str, list[int]] = {"+-": [], "*/@": []}
    depth = 0
    for i, ch in enumerate(text):
        depth += (ch in "([{") - (ch in ")]}")
        for signs, places in found.items():
            if depth == 0 and ch in signs and text[i - 1 : i + 2] == f" {ch} ":
                places.append(i)
    cuts = [0, *(found["+-"] or found["*/@"]), len(text)]
    return [text[a:b].strip() for a, b in pairwise(cuts)]


def _chained(text: str) -> tuple[str, list[str], str] | None:
    """The first call of a text, and what is done with what it returns."""
    opened = text.find("(")
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            inner = ending_call(text[: i + 1])
            return (*inner, text[i:]) if inner is not None and text[i + 1 : i + 2] == "." else None
    return None


def ending_call(text: str) -> tuple[str, list[str]] | None:
    """The call that a text ends with, as what stands before its arguments and these; formatters break lines there.

    None where it ends otherwise, or joins several parts by the operator that binds least.
    """
    depth, opened, commas, loose = 0, -1, [], {"sum": 0, "product": 0}
    for i, ch in enumerate(text):
        if ch in "([{":
            if depth == 0:
                opened, commas = i, []
            depth += 1
        elif ch in ")]}":
            depth -= 1
            closed = i
        elif ch == "," and depth == 1:
            commas.append(i)
        elif depth == 0 and text[i - 1 : i + 2] in (" + ", " - "):
            loose["sum"] += 1
        elif depth == 0 and text[i - 1 : i + 2] in (" * ", " / ", " @ "):
            loose["product"] += 1
    called = opened > 0 and (text[opened - 1].isalnum() or text[opened - 1] in "_])")
    if not called or not text.endswith(")") or closed != len(text) - 1:
        return None
    if (loose["sum"] or loose["product"]) > 1:
        return None
    cuts = [opened, *commas, len(text) - 1]
    args = [text[a + 1 : b].strip() for a, b in pairwise(cuts)]
    return text[: opened + 1], [a for a in args if a]


def _narrow(let: Let, printer: TorchPrinter, indent: int, fresh: Fresh) -> list[Let]:
    def fits(x: Let) -> bool:
        text = (
            max(printer.operands(x.expr), key=len)
            if x.expr.op in ("conv", "delay")
            else printer(x.expr)
        )
        names = ", ".join(map(printer.place, x.names))
        target = "" if x.expr.op in ("conv", "delay") else f"{names} = "
        return indent + len(target) + len(text) <= WIDTH - (45 if not target else 0)

    out, current = [], let
    while not fits(current):
        room = WIDTH - indent - len(printer.place(let.names[0])) - 14
        calls = (_part(current.expr, printer, most, calls=True) for most in (WIDTH, 4 * WIDTH))
        inner = _part(current.expr, printer, room) or next(filter(None, calls), None)
        if inner is None:
            break
        name = fresh(let.names[0], inner)
        value = leaf("var", name, inner.type)
        out.append(Let((name,), inner, "", let.span, let.when))
        current = replace(current, expr=substitute(current.expr, {inner: value}))
    return [*out, current]


_WITH_OTHERS = ("per_key", "per_value", "neg", "T", "slope")  # are written with what they stand in


def _part(e: Expr, printer: TorchPrinter, room: int, calls: bool = False) -> Expr | None:
    """The longest operand that fits on a line of its own; of calls alone, whose arguments may have their own line."""
    best, best_size = None, 12
    for node in walk(e):
        if node is e or not node.args or node.op in _WITH_OTHERS:
            continue
        text = printer(node)
        size = len(text) if not calls or ending_call(text) else 0
        if best_size < size <= room:
            best, best_size = node, size
    return best
