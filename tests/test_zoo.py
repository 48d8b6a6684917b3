"""The zoo: its token systems against their papers (`zoo_linear`, `_learners`, `_readers`), and fla's code; its page.

Outputs, states and gradients by the input and every slow weight, in float64, of both exact backends.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import zoo_layers
import zoo_learners
import zoo_linear
import zoo_page
import zoo_readers
from published_optimizers import PAPERS
from test_every_spec import exact as in_float64
from test_zoo_optimizers import LIBRARIES, NOTES, library_errors, paper_error
from torch import Tensor
from transcriptions import compare, drawn

import nlc
from nlc.pipeline import EXACT


@dataclass(frozen=True)
class Oracle:
    """What a system is compared with: the paper's recurrence at these sizes; ``inputs`` of another kind than x."""

    written: Callable[..., zoo_layers.Found]
    sizes: dict[str, object] = field(default_factory=dict)
    length: int = 23
    inputs: Callable[[], dict[str, Tensor]] | None = None


SMALL = dict(d=6, heads=2)
DEEP = dict(**SMALL, expand=2)
EVEN = dict(d=8, heads=2)


def _episodes() -> dict[str, Tensor]:
    """Observations, rewards and the ends of episodes, which differ between sequences."""
    noise = torch.Generator().manual_seed(1)
    shapes = {"x": (2, 23, 5), "reward": (2, 23), "done": (2, 23)}
    drawn = {n: torch.randn(s, generator=noise, dtype=torch.float64) for n, s in shapes.items()}
    return drawn | {"done": (drawn["done"] > 1).double()}


HOPE = dict(chunk=4, memory_chunk=3, periods=(2, 6, 18), cms_lr=0.1)
ORACLES = {
    "mlstm": Oracle(zoo_linear.mlstm, SMALL),
    "oja": Oracle(zoo_linear.oja, SMALL),
    "rwkv7": Oracle(zoo_linear.rwkv7, dict(**SMALL, rank=2)),
    "rwkv6": Oracle(zoo_linear.rwkv6, dict(**SMALL, rank=2)),
    "kda": Oracle(zoo_linear.kda, dict(**SMALL, rank=2)),
    "gated_delta_net2": Oracle(zoo_linear.gated_delta_net2, SMALL),
    "comba": Oracle(zoo_linear.comba, SMALL),
    "longhorn": Oracle(zoo_linear.longhorn, SMALL),
    "hgrn2": Oracle(zoo_linear.hgrn2, SMALL),
    "mamba": Oracle(zoo_linear.mamba, dict(d=6, n=3, rank=2)),
    "linear_transformer": Oracle(zoo_linear.linear_transformer, SMALL),
    "delta_product": Oracle(zoo_linear.delta_product(2), SMALL),
    "sliding_attention": Oracle(zoo_linear.sliding_attention(5), dict(**EVEN, window=5)),
    "gsa": Oracle(zoo_readers.gsa, dict(**SMALL, slots=4)),
    "forgetting_transformer": Oracle(zoo_readers.forgetting_transformer, SMALL),
    "mesa_net": Oracle(zoo_readers.mesa_net, SMALL),
    "slstm": Oracle(zoo_readers.slstm, SMALL),
    "omega": Oracle(zoo_learners.omega(4), dict(**DEEP, c=4)),
    "atlas": Oracle(zoo_learners.atlas(3, 0.1), dict(**SMALL, c=3), length=11),
    "moneta": Oracle(zoo_learners.moneta(3, 4), DEEP),
    "yaad": Oracle(zoo_learners.yaad, DEEP),
    "memora": Oracle(zoo_learners.memora, SMALL),
    "srwm": Oracle(zoo_learners.srwm, SMALL),
    "ada_transformer": Oracle(
        zoo_learners.ada_transformer(5, 0.2), dict(**EVEN, expand=2, chunk=5, lr=0.2)
    ),
    "hope_query": Oracle(
        zoo_learners.hope_query(bias=3.0, **HOPE), dict(**DEEP, gate_bias=3.0, **HOPE)
    ),
    "lact": Oracle(zoo_learners.lact(5, 0.05), dict(**DEEP, chunk=5, rate=0.05)),
    "surprise": Oracle(
        zoo_learners.surprise(4, 0.3, 0.9), dict(d=5, n=4, lr=0.3, discount=0.9), inputs=_episodes
    ),
}


def _inputs(oracle: Oracle) -> dict[str, Tensor]:
    if oracle.inputs is not None:
        return oracle.inputs()
    noise = torch.Generator().manual_seed(1)
    shape = (2, oracle.length, oracle.sizes["d"])
    return {"x": torch.randn(shape, generator=noise, dtype=torch.float64)}


@pytest.fixture
def exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], nlc.Spec]:
    return lambda name: in_float64(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("name", ORACLES)
def test_the_recurrence_of_the_paper(
    name: str, backend: str, exact: Callable[[str], nlc.Spec]
) -> None:
    _apart(name, backend, exact)


def _apart(name: str, backend: str, exact: Callable[[str], nlc.Spec]) -> float:
    """How far, at most."""
    oracle = ORACLES[name]
    module = exact(name).compile(backend)(**oracle.sizes)
    drawn(module)
    return compare(module, oracle.written, _inputs(oracle))


# fla's own code, which computes in float32


def _fla_rwkv7(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    """Their diagonal plus low rank: S diag(e^g) + (S a) bᵀ + v kᵀ, [B, H, T, n], queries over √n."""
    f = zoo_linear.rwkv7_flows(w, x)
    n = f["r"].shape[-1]
    flows = (f["r"] * n**0.5, f["k"], f["v"], -f["kap"], f["a"] * f["kap"], f["decay"].log())
    reads, _ = naive(*(z.transpose(1, 2).float() for z in flows))
    return zoo_linear.rwkv7_output(w, f, reads.transpose(1, 2).to(x.dtype))


def _fla_linear_transformer(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    q, k = (torch.nn.functional.elu(zoo_layers.in_heads(w, name, x)) + 1 for name in ("qx", "kx"))
    reads, _ = naive(q, k, zoo_layers.in_heads(w, "S.value", x), normalize=True)
    return zoo_layers.linear(w, "y.linear", reads.flatten(2))


def _fla_sliding_attention(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    q, k = (
        zoo_layers.turned(zoo_layers.in_heads(w, "q", x)),
        zoo_layers.turned(zoo_layers.in_heads(w, "A.key", x)),
    )
    reads, _ = naive(q, k, zoo_layers.in_heads(w, "A.value", x), window_size=5)
    return zoo_layers.linear(w, "y.linear", reads.flatten(2))


def _fla_delta_product(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    """Their sub-steps stand one after the other along the time axis: [B, 2 T, H, n]."""
    f = zoo_linear.delta_product_flows(w, x, 2)
    k, v, beta = (f[name].flatten(1, 2) for name in ("k", "v", "beta"))
    reads, _ = naive(f["q"], k, v, f["alpha"].log(), beta, 1.0, num_householder=2)
    return zoo_layers.closed(w, list(reads.unbind(1)), x)


def _fla_kda(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    f = zoo_linear.kda_flows(w, x)
    reads, _ = naive(**f, scale=1.0)
    y = zoo_layers.normed(reads, w["y.rmsnorm.weight"]) * zoo_layers.in_heads(w, "y", x).sigmoid()
    return zoo_layers.linear(w, "y.linear_2", y.flatten(2))


def _fla_gated_delta_net2(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    f = zoo_linear.gated_delta_net2_flows(w, x)
    flows = (f["q"], f["k"], f["v"], f["alpha"].log(), f["b"], f["w"])
    reads, _ = naive(*flows, scale=1.0)
    return zoo_layers.closed(w, list(reads.unbind(1)), x)


def _fla_comba(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    """The form in chunks: their recurrence token by token is of another system."""
    f = zoo_linear.comba_flows(w, x)
    flows = (f["q"], f["k"], f["v"], f["p"], f["alpha"].log(), f["beta"])
    reads, _ = naive(*flows, scale=1.0)
    return zoo_layers.closed(w, list(reads.to(x.dtype).unbind(1)), x)


def _fla_hgrn2(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    """Gated linear attention whose keys are what the gates forget; their queries are over √n."""
    q, v, forget = zoo_linear.hgrn2_flows(w, x).values()
    reads, _ = naive(q * q.shape[-1] ** 0.5, 1 - forget, v, forget.log())
    return zoo_linear.hgrn2_output(w, reads)


def _fla_rwkv6(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    u, *flows = zoo_linear.rwkv6_flows(w, x).values()
    reads, _ = naive(*(z.transpose(1, 2) for z in flows), w["bonus"], scale=1.0)
    return zoo_linear.rwkv6_output(w, u, reads.transpose(1, 2))


def _fla_gsa(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    f = zoo_readers.gsa_flows(w, x, 8)
    reads, _ = naive(f["q"], f["k"], f["v"], 1 - f["alpha"], f["alpha"].log(), 1.0)
    return zoo_readers.gsa_output(w, reads)


def _fla_forgetting_transformer(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    f = zoo_readers.forgetting_flows(w, x)
    reads = naive(f["q"], f["k"], f["v"], f["f"])
    reads = reads[0] if isinstance(reads, tuple) else reads
    return zoo_layers.linear(w, "y.linear", reads.flatten(2).to(x.dtype))


def _fla_mesa_net(naive: Callable, w: zoo_layers.State, x: Tensor) -> Tensor:
    f = zoo_readers.mesa_net_flows(w, x)
    reads, *_ = naive(f["q"], f["k"], f["v"], f["gamma"].log(), f["ridge"], f["beta"])
    return zoo_readers.mesa_net_output(w, reads.to(x.dtype))


FLA = {
    "hgrn2": ("gla.naive", "naive_recurrent_gla", _fla_hgrn2),
    "rwkv6": ("rwkv6.recurrent_naive", "naive_recurrent_rwkv6", _fla_rwkv6),
    "gsa": ("gsa.naive", "naive_recurrent_gsa", _fla_gsa),
    "forgetting_transformer": (
        "forgetting_attn.naive",
        "naive_forgetting_attn",
        _fla_forgetting_transformer,
    ),
    "mesa_net": ("mesa_net.naive", "naive_mesa_net_exact", _fla_mesa_net),
    "kda": ("kda.naive", "naive_recurrent_kda", _fla_kda),
    "gated_delta_net2": ("gdn2.naive", "naive_recurrent_gdn2", _fla_gated_delta_net2),
    "comba": ("comba.naive", "naive_chunk_comba", _fla_comba),
    "delta_product": (
        "gated_delta_product.naive",
        "naive_recurrent_gated_delta_product",
        _fla_delta_product,
    ),
    "rwkv7": ("generalized_delta_rule.dplr.naive", "dplr_recurrence", _fla_rwkv7),
    "linear_transformer": (
        "linear_attn.naive",
        "naive_recurrent_linear_attn",
        _fla_linear_transformer,
    ),
    "sliding_attention": ("attn.naive", "naive_parallel_attn", _fla_sliding_attention),
}


@pytest.mark.parametrize("name", FLA)
def test_the_naive_code_of_fla(name: str) -> None:
    """What differs is the precision; they also divide by another epsilon than we do."""
    pytest.importorskip("fla")
    folder, function, run = FLA[name]
    naive = getattr(importlib.import_module(f"fla.ops.{folder}"), function)
    oracle = ORACLES[name]
    module = nlc.compile(name)(**oracle.sizes)
    weights = drawn(module)
    x = _inputs(oracle)["x"]
    theirs, (mine, _) = run(naive, weights, x), module(x)
    torch.testing.assert_close(mine, theirs.double(), rtol=1e-5, atol=1e-5)


def test_two_of_fla_s_are_other_systems() -> None:
    """One token from a state that is not 0: why `ttt_linear` and `titans` are not held against them."""
    pytest.importorskip("fla")
    ttt, titans = (importlib.import_module(f"fla.ops.{n}.naive") for n in ("ttt", "titans"))
    noise, n = torch.Generator().manual_seed(0), 5
    q, k, v, shift = (torch.randn(1, 1, 1, n, generator=noise) for _ in range(4))
    h, scale = torch.randn(1, 1, n, n, generator=noise).requires_grad_(), torch.rand(1, n)
    shift = shift[0, 0]

    def normal(z: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(z, (n,), eps=1e-6) * scale + shift

    (slope,) = torch.autograd.grad((normal(k @ h) + k - v).square().sum(), h)
    with torch.no_grad():
        half = torch.full((1, 1, 1, 1), 0.5)
        given = dict(initial_state=h, output_final_state=True)
        reads, end, bias = ttt.chunk_ttt_linear_ref(
            q, k, v, scale, shift, half, scale=1.0, mini_batch_size=1, **given
        )
        torch.testing.assert_close(end, h - 0.25 * slope, rtol=1e-4, atol=1e-5)
        z = q @ end + bias
        torch.testing.assert_close(reads, z + normal(z), rtol=1e-4, atol=1e-5)  # not q + …
        _, end = titans.chunk_titans_linear_ref(
            q, k, v, scale, shift, half, half, 0 * half, chunk_size=1, use_chunk=False, **given
        )
        step = end - h / 2
    assert (step + 0.5 * slope).norm() > 0.5 * slope.norm()


# the page


def _held() -> dict[str, str]:
    """What each system of this file and of ``test_zoo_optimizers`` is compared with."""
    held = {name: zoo_page.WRITTEN + (", and fla's" if name in FLA else "") for name in ORACLES}
    for name in PAPERS:
        libraries = dict.fromkeys(f"`{x.name}`" for x in LIBRARIES.get(name, ()))
        held[name] = ", ".join(("the paper, step by step", *libraries))
        held[name] += f"; {NOTES[name]}" if name in NOTES else ""
    return held


def test_every_system_has_an_oracle() -> None:
    """In `ORACLES` or `published_optimizers`; one that stands in another file is named in `zoo_page`."""
    held = _held()
    assert not held.keys() & zoo_page.ELSEWHERE.keys()
    assert held.keys() | zoo_page.ELSEWHERE.keys() == {*zoo_page.systems()}


def test_the_page_is_current(
    exact: Callable[[str], nlc.Spec], golden: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    """Errors are measured anew where the page is written; on another machine their last digits differ."""
    folder = Path(__file__).parent.parent / "docs"
    zoo_page.systems()  # are loaded, before `exact` puts another Muon beside the shipped ones
    if request.config.getoption("--update-golden"):
        worst = {n: max([paper_error(n), *library_errors(n)]) for n in PAPERS}
        worst |= {n: max(_apart(n, b, exact) for b in EXACT) for n in ORACLES}  # changes Muon
        errors = {name: f"{error:.0e}" if error else "0" for name, error in worst.items()}
    else:
        errors = zoo_page.measured((folder / "zoo.md").read_text(encoding="utf-8"))
    golden("zoo.md", zoo_page.page(_held(), errors), folder)
