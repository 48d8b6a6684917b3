"""A scan and its read as one kernel, which keeps nothing for slopes, against the recurrence in float64."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from recurrences import EPS, TESTED, Tensors, error, expected, inputs, module
from torch import Tensor

from nlc.backends.triton.forms import KernelForm

FORMS = {f.scan: f for f in TESTED}
FULL = KernelForm("scalar", True, True, rate=True)
MOST = 3e-5  # of float32 against float64


def fused(kernels: ModuleType, f: KernelForm, x: Tensors, when: str) -> tuple[Tensor, Tensor]:
    args = [x[n] for n in ("S", "k", "u", "b", "log_a", "w", "p", "q") if n in x]
    return getattr(kernels, f.fused(when))(*args, *([EPS] if f.unit else []))


def launched(kernels: ModuleType, f: KernelForm, x: Tensors, when: str) -> list[str]:
    """The kernels that it runs."""
    names, launch = [], kernels.launch

    def noted(kernel: object, *rest: object, **sizes: object) -> None:
        names.append(kernel.fn.__name__)  # type: ignore[attr-defined]
        launch(kernel, *rest, **sizes)

    kernels.launch = noted
    try:
        fused(kernels, f, x, when)
    finally:
        kernels.launch = launch
    return names


@pytest.mark.parametrize("when", ("after", "before"))
@pytest.mark.parametrize("name", FORMS)
def test_it_is_the_recurrence(name: str, when: str, tmp_path: Path) -> None:
    f = FORMS[name]
    check(f, when, inputs(f, 70, 20, 9), tmp_path)


@pytest.mark.parametrize(
    ("T", "dk", "dv"), ((1, 16, 16), (16, 16, 40), (33, 130, 20), (40, 200, 16))
)
def test_of_any_size(T: int, dk: int, dv: int, tmp_path: Path) -> None:
    check(FULL, "after", inputs(FULL, T, dk, dv), tmp_path)


@pytest.mark.parametrize(
    ("name", "when"),
    [*((n, "after") for n in FORMS), (FULL.scan, "before")]
    + [pytest.param(n, "before", marks=pytest.mark.long) for n in FORMS if n != FULL.scan],
)
def test_of_one_token_it_is_one_kernel(name: str, when: str, tmp_path: Path) -> None:
    f = FORMS[name]
    x = inputs(f, 1, 20, 9)
    check(f, when, x, tmp_path)
    kernels = module(tmp_path, [one := f.fused(when)])
    x = {n: v.float() for n, v in x.items()}
    assert launched(kernels, f, x, when) == [f"{one}_step"]
    assert len(launched(kernels, f, x | {"q": x["q"].requires_grad_()}, when)) == 2


def test_long_keys_that_are_brought_to_length_one_are_taken_in_parts(tmp_path: Path) -> None:
    f = FORMS["gated_delta_rated_unit"]
    check(f, "after", inputs(f, 20, 150, 16), tmp_path)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    x = inputs(FULL, 70, 20, 9)
    given = {n: v.to(dtype) if n in "kuqp" else v.float() for n, v in x.items()}
    kernels = module(tmp_path, [FULL.fused("after")])
    end, out = fused(kernels, FULL, given, "after")
    assert (end.dtype, out.dtype) == (torch.float32, dtype)
    right = expected(FULL, {n: v.double() for n, v in given.items()})
    assert error(end, right["end"]) < 0.02 and error(out, right["after"]) < 0.02


def test_it_runs_where_it_is_better_and_no_slopes_are_wanted(tmp_path: Path) -> None:
    x = {n: v.float() for n, v in inputs(FULL, 40, 16, 16).items()}
    half = {n: v.bfloat16() if n in "kuqp" else v for n, v in x.items()}
    kernels = module(tmp_path, [FULL.fused("after")])
    name, one = FULL.scan, FULL.fused("after")
    both = [f"{one}_scores", f"{name}_solve", f"{one}_scan"]
    two = [f"{name}_solve", f"{name}_scan", f"{FULL.read('after')}_out"]
    assert launched(kernels, FULL, x, "after") == two  # in float32
    assert launched(kernels, FULL, half, "after") == both
    kernels.processors = lambda device: 3  # for two programs
    assert launched(kernels, FULL, half, "after") == two
    kernels.processors = lambda device: 2
    assert launched(kernels, FULL, half, "after") == both
    half["u"].requires_grad_()
    assert launched(kernels, FULL, half, "after") == two
    with torch.no_grad():
        assert launched(kernels, FULL, half, "after") == both


@pytest.mark.parametrize("name", FORMS)
def test_torch_knows_the_operator(name: str, tmp_path: Path) -> None:
    f = FORMS[name]
    kernels, x = module(tmp_path, [f.fused("after")]), inputs(f, 20, 16, 16)
    given = [x[n].float() for n in ("S", "k", "u", "b", "log_a", "w", "p", "q") if n in x]
    given += [EPS] * f.unit + [None, True, None, None]
    operator = getattr(kernels, f"{f.fused('after')}_forward").known
    torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(("packed", "chunk"), ((False, 16), (True, 16), (False, 1)))
def test_a_first_launch_compares_it_with_its_meaning(
    packed: bool, chunk: int, tmp_path: Path
) -> None:
    name = FULL.fused("after")
    kernels = module(tmp_path, [name])
    operator, meaning = (getattr(kernels, f"{name}_{x}") for x in ("forward", "meaning"))
    given = operator, meaning, torch.zeros(1, 2, 20, 16), 16, chunk, packed
    assert kernels.differs(*given) == ""
    launch, broken = kernels.launch, getattr(kernels, f"{name}_{'scan' if chunk > 1 else 'step'}")
    kernels.launch = lambda kernel, *rest, **kw: kernel is broken or launch(kernel, *rest, **kw)
    assert kernels.differs(*given) == f"the kernels of {name} are wrong"


def check(f: KernelForm, when: str, x: Tensors, folder: Path) -> None:
    kernels = module(folder, [f.fused(when)])
    kernels.in_one = lambda *_: True  # also in float32
    end, out = fused(kernels, f, {n: v.float() for n, v in x.items()}, when)
    right = expected(f, x)
    assert error(end, right["end"]) < MOST and error(out, right[when]) < MOST
