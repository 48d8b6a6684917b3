"""What all tests share: one thread for torch, the marker ``long``, and goldens."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"

# Read when torch is first imported, here or in a subprocess: worker processes that spin for the
# same cores make small products fifty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the tests produce to tests/golden instead of comparing with it",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes many seconds; `make test` leaves it out")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Holds torch to one thread, also after a test that changed it; never imports torch itself."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A driver of headless Chromium. Without one the test is skipped, or fails if NLC_REQUIRE_BROWSER is set."""
    from browser import start

    made = start()
    if isinstance(made, str):
        if os.environ.get("NLC_REQUIRE_BROWSER"):
            pytest.fail(f"NLC_REQUIRE_BROWSER is set, and {made}", pytrace=False)
        pytest.skip(made)
    yield made
    made.quit()


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``show(text, size, dark)`` opens a page; the test fails if the page said something or loaded anything."""
    from browser import Shown

    shown = Shown(chromium, tmp_path)
    yield shown
    shown.done()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``golden(name, text)``: ``text`` is what ``tests/golden/<name>`` says, to the byte.

    A golden that belongs beside its input has a ``folder`` of its own.
    """
    update = request.config.getoption("--update-golden")

    def check(name: str, text: str, folder: Path = GOLDEN) -> None:
        path, shown = folder / name, f"tests/{folder.name}/{name}"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
            return
        if not path.exists():
            pytest.fail(
                f"there is no {shown}; `pytest --update-golden` writes it:\n{text}",
                pytrace=False,
            )
        expected = path.read_bytes().decode()
        if text != expected:
            diff = difflib.unified_diff(
                expected.splitlines(),
                text.splitlines(),
                shown,
                "this run",
                lineterm="",
            )
            found = "\n".join(diff) or "only the line breaks differ"
            pytest.fail(
                f"{shown} says something else; if this run is right, "
                f"`pytest --update-golden` accepts it:\n{found}",
                pytrace=False,
            )

    return check


# `make test` draws the same examples every time, however slowly; `make test-long` draws new ones.
settings.register_profile(
    "fixed", derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
