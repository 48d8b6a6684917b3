"""Whole numbers as inputs: tables of rows that the language's `embedding` reads, in a system of one's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transcriptions import compare, drawn

import nlc
from nlc.pipeline import EXACT

MODEL = """
nlc: 1
system: little_lm
context: tokens
doc: A language model whose only memory is a delta rule.
hyper:
  vocabulary: 7
  d: 6
  n: d / heads
heads: 2
inputs:
  letter: []
outputs:
  logits: [vocabulary]
let:
  h: embedding(letter, vocabulary, d)
  u: conv(h, 3)
  q: l2norm(split(linear(u)))
  beta: sigmoid(split(linear(u)))
levels:
  S:
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(split(linear(u)))
    value: split(linear(u))
    objective: 0.5 * sqnorm(S(key) - value)
    rule: gd(lr=beta)
output:
  logits: linear(rmsnorm(h + linear(merge(S(q)), d)), vocabulary)
"""
LETTERS = torch.randint(7, (2, 11), generator=torch.Generator().manual_seed(0))
exact = pytest.mark.parametrize("backend", EXACT)


def model(backend: str = "auto", text: str = MODEL) -> nn.Module:
    torch.manual_seed(0)
    return nlc.loads(text, "little_lm.yaml").compile(backend)().double()


def written(w: dict[str, Tensor], letter: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The model token by token."""
    h = w["h.embedding.weight"][letter]
    padded = F.pad(h, (0, 0, 2, 0))
    u = sum(padded[:, i : i + letter.shape[1]] * w["u.conv.weight"][:, i] for i in range(3))

    def unit(z: Tensor) -> Tensor:
        return z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt()

    q, k, v = (u @ w[f"{n}.linear.weight"].T for n in ("q", "S.key", "S.value"))
    q, k, v = (z.unflatten(-1, (2, 3)) for z in (q, k, v))
    q, k, beta = unit(q), unit(k), (u @ w["beta.linear.weight"].T).sigmoid()
    S, out = letter.new_zeros(len(letter), 2, 3, 3, dtype=h.dtype), []
    for t in range(letter.shape[1]):
        error = torch.einsum("bhij,bhj->bhi", S, k[:, t]) - v[:, t]
        S = S - beta[:, t, :, None, None] * error[..., None] * k[:, t, :, None, :]
        out.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
    y = h + torch.stack(out, 1).flatten(2) @ w["logits.linear.weight"].T
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w["logits.rmsnorm.weight"]
    return y @ w["logits.linear_2.weight"].T, {"S": S}


@exact
def test_it_is_what_torch_would_say(backend: str) -> None:
    module = model(backend)
    drawn(module)
    compare(module, written, {"letter": LETTERS})


@exact
def test_a_stream_of_letters_may_be_cut_anywhere(backend: str) -> None:
    module = model(backend)
    whole, end = module(LETTERS)
    parts, state = [], None
    for piece in LETTERS.split([1, 6, 4], 1):
        y, state = module(piece, state=state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)
    state = module.initial_state(LETTERS)
    for t in range(11):
        y, state = module.step(LETTERS[:, t].int(), state=state)
        torch.testing.assert_close(y, whole[:, t], rtol=1e-12, atol=1e-12)
    packed = torch.cat([LETTERS[:1, :4], LETTERS[1:, :7]], 1)
    y, _ = module(packed, cu_seqlens=torch.tensor([0, 4, 11]))
    torch.testing.assert_close(y[0, :4], whole[0, :4], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y[0, 4:], whole[1, :7], rtol=1e-12, atol=1e-12)
    module.checkpoint = 4
    torch.testing.assert_close(module(LETTERS)[0], whole, rtol=1e-12, atol=1e-12)


def test_it_learns_a_text_and_its_weights_are_saved() -> None:
    module = model().float()
    text = torch.arange(12).remainder(7)[None]
    optimizer = nlc.compile("adamw")(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(module(text[:, :-1])[0].flatten(0, 1), text[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = model().float()
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(text)[0], module(text)[0])
    assert isinstance(module.h.embedding, nn.Embedding)


def test_it_compiles_without_graph_breaks_and_keeps_its_memory_in_float32() -> None:
    module = model()
    with torch.no_grad():
        found, _ = torch.compile(module, backend="aot_eager", fullgraph=True)(LETTERS[:, :3])
        torch.testing.assert_close(found, module(LETTERS[:, :3])[0], rtol=1e-12, atol=1e-12)
        y, state = module.bfloat16()(LETTERS)
    assert (y.dtype, state["S"].dtype) == (torch.bfloat16, torch.float32)
    assert module.initial_state(LETTERS)["u.conv"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (
            LETTERS.double(),
            TypeError,
            r"letter \[B, T\] must hold int32 or int64, not torch.float64",
        ),
        (
            LETTERS[..., None],
            ValueError,
            r"letter \[B, T\] must be \[B, T\] with T > 0, not \[2, 11, 1\]",
        ),
        (LETTERS + 1, ValueError, r"letter \[B, T\] must be within 0 and 6, not 1 to 7"),
        (LETTERS - 1, ValueError, r"letter \[B, T\] must be within 0 and 6, not -1 to 5"),
    ],
)
def test_what_counts_no_row_is_refused(given: Tensor, error: type, said: str) -> None:
    with pytest.raises(error, match=said + r" \(little_lm.yaml:12\)"):
        model()(given)


def test_the_interpreter_agrees() -> None:
    """Also without `outputs`, as an index has no size to take over."""
    assert (
        nlc.loads(MODEL.replace("outputs:\n  logits: [vocabulary]\n", "")).verify(tokens=200).passed
    )


def test_one_index_may_have_several_tables_and_stand_beside_other_inputs() -> None:
    """In a system with heads, too, where several inputs that are none are flows of an operator."""
    text = MODEL.replace("letter: []\n", "gate: []\n  letter: []\n")
    text = text.replace("gd(lr=beta)", "gd(lr=beta * sigmoid(gate))")
    text = text.replace("value: split(linear(u))", "value: split(embedding(same, vocabulary, d))")
    text = text.replace("let:\n", "let:\n  same: letter\n")
    text = text.replace("sigmoid(split(linear(u)))", "sigmoid(embedding(letter, vocabulary, 1))")
    assert nlc.loads(text).verify(tokens=200).passed
    module = model(text=text)
    assert isinstance(module.S.value.embedding, nn.Embedding)
    gate = torch.randn(2, 11, dtype=torch.float64)
    found, _ = module(gate, LETTERS)
    assert found.shape == (2, 11, 7) and module(gate[:, :5], LETTERS[:, :5])[0].isfinite().all()


def test_a_model_can_be_part_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "little_lm.yaml").write_text(MODEL)
    monkeypatch.setenv("NLC_PATH", str(tmp_path))
    text = """
nlc: 1
system: reader
context: tokens
hyper: {d: 6}
heads: 2
inputs: {byte: []}
outputs: {y: [5]}
use:
  lm: little_lm(vocabulary=7, d=d)
output:
  y: linear(lm(byte), 5)
"""
    whole = model(text=text)
    alone = model()
    weights = {n.removeprefix("lm."): x for n, x in whole.state_dict().items() if "lm." in n}
    alone.load_state_dict(weights)
    torch.testing.assert_close(
        whole(LETTERS)[0], alone(LETTERS)[0] @ whole.y.linear.weight.T, rtol=1e-12, atol=1e-12
    )
    with pytest.raises(nlc.SpecError, match="`embedding` reads an input"):
        nlc.loads(text.replace("lm(byte)", "lm(2 * byte)")).compile()


def test_its_table_is_routed_as_one_of_torch_s() -> None:
    module = model()
    tables = nlc.Route("adamw", modules=nn.Embedding, lr=0.1)
    optimizer = nlc.route(module, tables, rest="sgd", tell=None)
    before: Callable[[], Tensor] = lambda: module.h.embedding.weight.detach().clone()  # noqa: E731
    kept = before()
    module(LETTERS)[0].square().sum().backward()
    optimizer.step()
    assert (before() - kept).abs().max() > 0.05  # AdamW's first step is as long as its rate
