"""The shipped specs by what they are, read and checked once for all tests that take their names from here."""

from __future__ import annotations

from functools import cache

import nlc
from nlc.pipeline import Spec, shipped


@cache
def load(name: str, operator: bool = False) -> Spec:
    """A shipped spec; tests that change one, or count what it does, read their own."""
    return nlc.load(name, operator=operator)


TOKENS = [n for n in shipped() if load(n).system.context == "tokens"]
GRADIENTS = [n for n in shipped() if load(n).system.context == "gradients"]
TRAINERS = [n for n in shipped() if load(n).system.trains]
LAYERS = [n for n in TRAINERS if load(n).system.context == "layers"]
