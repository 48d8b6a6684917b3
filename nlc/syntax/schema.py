"""The keys of the language, each with its kind and one sentence: the one place that lists them.

``parse`` takes its keys and choices from the models, editors get them as JSON Schema. The models
only describe: a spec is read by ``parse``, which knows places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

_EXPRESSION = {"type": ["string", "number", "boolean"], "description": "an expression"}
_DIMS = {"type": "array", "items": _EXPRESSION, "description": "sizes, `[]` for a scalar"}


@dataclass(frozen=True)
class Takes:
    """What may stand behind a key.

    ``text`` is the kind of a scalar there (``expression``, also in lists; ``clock``, ``name``,
    ``prose``, ``choice``), ``block`` or ``members`` what a mapping there is: one with the keys of a
    block, or names with values of their own. A ``small`` mapping may stand on one line.
    """

    text: str = ""
    block: type[Block] | None = None
    members: Takes | None = None
    small: bool = False


_EXPRESSIONS = Takes("expression")

Expression = Annotated[str, WithJsonSchema(_EXPRESSION), _EXPRESSIONS]
ListOrExpression = Annotated[
    str | list[Any], WithJsonSchema({"anyOf": [_EXPRESSION, {"type": "array"}]}), _EXPRESSIONS
]
Dims = Annotated[list[Any] | str, WithJsonSchema({"anyOf": [_DIMS, _EXPRESSION]}), _EXPRESSIONS]
Clock = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["every token", "every 16 tokens", "every step", "2 per token", "infinite"],
        }
    ),
    Takes("clock"),
]
Name = Annotated[str, WithJsonSchema({"type": "string", "maxLength": 64}), Takes("name")]
Prose = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean"]}), Takes("prose")]
Texts = Annotated[
    list[Any] | str,
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    Takes("word"),
]
ViewText = Annotated[
    str,
    WithJsonSchema(
        {"type": "string", "examples": ["flatten(1:)", "split(0, heads)", "batch(:-2)"]}
    ),
    Takes("word"),
]
Conditions = Annotated[
    str | list[Any],
    WithJsonSchema({"anyOf": [_EXPRESSION, {"type": "array", "items": _EXPRESSION}]}),
    _EXPRESSIONS,
]
Words = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"anyOf": [_EXPRESSION, {"type": "array"}]},
        }
    ),
    Takes(members=_EXPRESSIONS, small=True),
]


def _key(text: str, **more: Any) -> Any:
    return Field(None, description=text, **more)


def _required(text: str, **more: Any) -> Any:
    return Field(description=text, **more)


class Block(BaseModel):
    """A mapping that has no other keys than these."""

    model_config = ConfigDict(extra="forbid", defer_build=True)
    small: ClassVar[bool] = False  # whether it may stand on one line


class Family(Block):
    """One member or more of a family: an expression with the names that run."""

    for_: Words = _required(
        "the names that run, zipped: `{i: [1, 2, 3]}`", alias="for", examples=["{i: [1, 2, 3]}"]
    )
    is_: Expression = _required(
        "the expression, one for each member", alias="is", examples=["C[i](h[i-1])"]
    )


class Weight(Block):
    """A free slow weight."""

    small = True
    shape: Dims = _required("its sizes, `[]` for a scalar", examples=["[]"])
    per: Literal["head"] | None = _key("`head`: one for each head", examples=["head"])
    init: Expression | None = _key(
        "its first value; `uniform(a, b)` and `normal(s)` draw it", examples=["log(uniform(1, 16))"]
    )


class Reset(Block):
    """When a level starts over, and from what."""

    small = True
    every: Clock = _required(
        "the period, such as `512 tokens`, or a declared clock", examples=["k steps"]
    )
    to: Expression | None = _key(
        "the value it starts over from: a level or an expression", examples=["phi"]
    )
    rule: Literal["true", "false"] | None = _key(
        "`true`: the states of its rule start over too", examples=["true"]
    )


class InlineMemory(Block):
    """A memory written out: the states with their sizes, and ``read(z)``. Other keys are states."""

    model_config = ConfigDict(
        extra="allow",
        defer_build=True,
        json_schema_extra={
            "patternProperties": {r"^read\(.*\)$": _EXPRESSION},
            "additionalProperties": {"anyOf": [_DIMS, _EXPRESSION]},
        },
    )

    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = _key(
        "the number format of the states; float32 if it is not said", examples=["float64"]
    )


class Route(Block):
    """Tensors that one rule trains, by any of several conditions, and as what it sees them."""

    small = True
    kinds: Texts | None = _key("kinds of tensors, one of which it must be", examples=["matrices"])
    names: Texts | None = _key(
        "patterns of whole names with `*`, one of which must match", examples=['"*.qkv.weight"']
    )
    modules: Texts | None = _key(
        "classes of modules, one of which must own it", examples=["[Conv1d, Conv2d]"]
    )
    where: Conditions | None = _key(
        "a condition on `ndim(W)`, `numel(W)` and, of matrices, `nrows(W)`, `ncols(W)`, or a list of them",
        examples=["numel(W) < 1024"],
    )
    view: ViewText | None = _key(
        "what the rule sees: `flatten(1:)`, `split(0, heads)`, `batch(:-2)`, one after the other",
        examples=["flatten(1:)"],
    )
    rule: Expression = _required("`self`, a step formula or an optimizer's spec", examples=["self"])


class Level(Block):
    """An associative memory: what it stores, by which objective and rule, and how often."""

    frequency: Clock | None = _key(
        "its clock: `every token`, `every n tokens`, `every step`, …", examples=["every token"]
    )
    memory: Expression | InlineMemory | None = _key(
        "`matrix(m, n)`, `mlp(n, expand)`, `like(W)`, … or states and `read(z)` written out",
        examples=["mlp(n, expand)"],
    )
    key: Expression | None = _key(
        "what the memory is asked with, a flow: `key` in this level", examples=["l2norm(k)"]
    )
    value: Expression | None = _key(
        "what it should answer, a flow: `value` in this level",
        examples=["silu(conv(split(linear(x)), 4))"],
    )
    let: dict[str, ListOrExpression | Family] | None = _key("named expressions of this level")
    objective: Expression | None = _key(
        "the inner loss, a scalar; `loss` is the outer one",
        examples=["0.5 * sqnorm(S(key) - value)"],
    )
    rule: Expression | None = _key(
        "`gd(lr=…)`, `dgd(…)`, `prox(…)` or an optimizer's spec", examples=["gd(lr=beta)"]
    )
    update: Expression | dict[str, Expression] | None = _key(
        "the new state written out, in place of objective and rule", examples=["max(m, abs(k))"]
    )
    retain: Expression | None = _key(
        "what is kept of the state before the gradient is taken", examples=["alpha"]
    )
    toward: Expression | None = _key(
        "where retain and decay lead: 0, `init` or an expression", examples=["init"]
    )
    project: Expression | None = _key(
        "what is done to the new state last", examples=["U / max(1, norm(U))"]
    )
    anchor: Clock | None = _key(
        "the gradient is taken at the state of the last such boundary",
        examples=["every chunk tokens"],
    )
    phase: Literal["start", "end"] | None = _key(
        "tick at the start or the end of the period", examples=["start"]
    )
    init: Expression | None = _key(
        "`zeros`, `learned`, `learned(e)`, an expression or a level", examples=["learned"]
    )
    reset: Clock | Reset | None = _key(
        "when the level starts over", examples=["{every: k steps, to: phi}"]
    )
    through: Expression | None = _key(
        "the faster level whose updates are differentiated through", examples=["B"]
    )
    backprop: Literal["through", "none"] | None = _key(
        "may the outer gradient pass its updates", examples=["through"]
    )
    for_: Words | None = _key(
        "the names that run, zipped: a family of levels",
        alias="for",
        examples=["{i: [1, 2, 3], period: periods}"],
    )
    doc: Prose | None = _key("what it is, in a sentence")


class Spec(Block):
    """A system of levels."""

    nlc: Literal["1"] = _required("the version of the language", examples=["1"])
    system: Name = _required("its name, as a rule that of the file", examples=["my_adam"])
    context: Literal["tokens", "gradients", "layers"] = _required(
        "what the levels compress", examples=["tokens"]
    )
    doc: Prose | None = _key("what it is, in a sentence or two")
    ref: Prose | None = _key("where it was published")
    hyper: dict[str, ListOrExpression] | None = _key("hyper-parameters and their defaults")
    heads: Expression | None = _key("how many heads", examples=["4"])
    inputs: dict[str, Dims] | None = _key("the flows that come from outside, and their sizes")
    outputs: dict[str, Dims] | None = _key(
        "the sizes of all outputs; without this key each has the first input's"
    )
    weights: dict[str, Weight] | None = _key("free slow weights")
    clocks: dict[str, Expression] | None = _key("clocks that tick where the data says")
    use: dict[str, Expression] | None = _key("token systems used as functions")
    let: dict[str, ListOrExpression | Family] | None = _key("named expressions")
    levels: dict[str, Level] | None = _key("the levels")
    output: Expression | dict[str, Expression] | None = _key(
        "what the system gives for a token", examples=["M(q)"]
    )
    applies_to: dict[str, Expression | Route] | None = _key(
        "which rule trains which tensors: the first that takes one"
    )
    grad_at: Expression | None = _key("where the gradient is taken, if not at W")
    eval_at: Expression | None = _key("what takes the place of W in evaluation", examples=["x"])


# Keys of which a mapping may have one; why both make no sense.
EXCLUSIVE: dict[type[Block], tuple[tuple[str, str, str], ...]] = {
    Level: (
        ("rule", "update", "a rule makes the new state from the objective, `update` writes it out"),
        ("retain", "update", "`update` is the whole new state, so write the factor into it"),
    ),
}


def keys_of(model: type[Block]) -> dict[str, bool]:
    """Every key of a block in its order, and whether it is required."""
    return {f.alias or n: f.is_required() for n, f in model.model_fields.items()}


def sentence_of(model: type[Block], key: str) -> str:
    """What a key says."""
    return _field(model, key)[1].description or ""


def example_of(model: type[Block], key: str) -> str:
    """What may stand behind a key; "" for a mapping of names and for prose."""
    return next(iter(_field(model, key)[1].examples or ()), "")


def _field(model: type[Block], key: str) -> tuple[str, Any]:
    return next((n, f) for n, f in model.model_fields.items() if (f.alias or n) == key)


def kind_of(model: type[Block], key: str) -> str:
    """What a key takes, in words: ``an expression``, ``a clock or a mapping``."""
    hints = get_type_hints(model, include_extras=True)
    return _said(hints[_field(model, key)[0]])


_KINDS: list[tuple[Any, str]] = [
    (Expression, "an expression"),
    (ListOrExpression, "an expression or a list"),
    (Dims, "a list of sizes"),
    (Clock, "a clock"),
    (Name, "a name"),
    (Prose, "text"),
    (Words, "names and a value or a list for each"),
    (Texts, "a text or a list of them"),
    (ViewText, "a view"),
    (Conditions, "a condition or a list of them"),
]


def _said(annotation: Any) -> str:
    for kind, said in _KINDS:
        if annotation == kind:
            return said
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in inside)
    if origin is dict:
        return f"names, each with {_said(inside[1])}"
    if origin in (Union, UnionType):
        return " or ".join(_said(kind) for kind in inside if kind is not type(None))
    return f"a mapping ({BLOCKS[annotation]})"


# What a person calls each mapping of a spec.
BLOCKS: dict[type[Block], str] = {
    Spec: "a spec",
    Level: "a level",
    Route: "a route",
    InlineMemory: "a memory written out",
    Reset: "a reset",
    Weight: "a weight",
    Family: "a member of a family",
}


def choices_of(model: type[Block], key: str) -> tuple[str, ...]:
    """The words that a key takes; none if it takes anything else."""
    field = _field(model, key)[1]
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


@cache
def takes(model: type[Block], key: str) -> Takes:
    """What stands behind a key of a block; behind one that the block leaves open, an expression."""
    named = {f.alias or name: name for name, f in model.model_fields.items()}
    if key not in named:
        return _EXPRESSIONS
    return _takes(get_type_hints(model, include_extras=True)[named[key]])


def _takes(annotation: Any) -> Takes:
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return next(said for said in inside if isinstance(said, Takes))
    if kind is Literal:
        return Takes("choice")
    if kind is dict:
        return Takes(members=_takes(inside[1]))
    if kind in (Union, UnionType):
        either = [_takes(part) for part in inside if part is not type(None)]
        return Takes(
            next((t.text for t in either if t.text), ""),
            next((t.block for t in either if t.block), None),
            next((t.members for t in either if t.members), None),
            any(t.small for t in either),
        )
    return Takes(block=annotation, small=annotation.small)


# Written into the schema, so that a copy of it is known as one.
MARK = "The keys of an nlc spec; `nlc schema` prints this file, and `nlc new` puts it beside specs."
FILE = "schema.json"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a spec, for editors; ``schema.json`` beside this file is its text.

    Draft 7: language servers for YAML read it, and not all of them read later ones.
    """
    schema = Spec.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs")
    for block in (schema, *definitions.values()):
        for name, prop in block.get("properties", {}).items():
            block["properties"][name] = kept = _without_null(prop)
            if "examples" in kept:  # they are the text of a spec; editors want values
                kept["examples"] = [yaml.safe_load(text) for text in kept["examples"]]
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": MARK,
        **schema,
        "definitions": definitions,
    }
    _accept_unquoted(schema)
    return schema


def schema_text() -> str:
    """The text of the schema that is installed with nlc."""
    return files("nlc.syntax").joinpath(FILE).read_text(encoding="utf-8")


def _without_null(prop: dict[str, Any]) -> dict[str, Any]:
    """A key that may be left out may still not be empty."""
    kept = [kind for kind in prop.get("anyOf", []) if kind != {"type": "null"}]
    rest = {k: v for k, v in prop.items() if k not in ("anyOf", "default", "title")}
    if not kept:
        return rest
    if len(kept) == 1 and "$ref" not in kept[0]:  # what stands beside a `$ref` is not read
        return {**kept[0], **rest}
    return {"anyOf": kept, **rest}


def _accept_unquoted(schema: dict[str, Any]) -> None:
    """YAML reads `nlc: 1` and `rule: true` as a number and a truth value where we read text."""
    schema["properties"]["nlc"] = {
        "enum": [1, "1"],
        "description": schema["properties"]["nlc"]["description"],
    }
    rule = schema["definitions"]["Reset"]["properties"]["rule"]
    rule["enum"] = [True, False, *rule["enum"]]
    rule.pop("type", None)
