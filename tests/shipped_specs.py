"""The shipped specs by what they are, read and checked once for all tests that take their names from here."""

from __future__ import annotations

from functools import cache

import nlc
from nlc.pipeline import Spec, shipped


@cache
def _read(name: str, operator: bool) -> Spec:
    return nlc.load(name, operator=operator)


def load(name: str, operator: bool = False) -> Spec:
    """A shipped spec; tests that change one or the compiler, or count what it does, read their own."""
    return _read(name, operator)


TOKENS = [n for n in shipped() if load(n).system.context == "tokens"]
GRADIENTS = [n for n in shipped() if load(n).system.context == "gradients"]
TRAINERS = [n for n in shipped() if load(n).system.trains]
LAYERS = [n for n in TRAINERS if load(n).system.context == "layers"]
