"""What short names in the kernels of a file stand for: a comment, of those that it has."""

from __future__ import annotations

import re

from nlc.backends.writer import WIDTH, listed, wrap

_MADE = {"raw": "of a token, raw_", "head": "of a head, head_", "fixed": "of all, fixed_"}


def legend(text: str) -> str:
    """The comment for kernels of a text."""
    kernels = "\n".join(re.findall(r"(?ms)^@triton\.jit\n.*?(?=^(?!def |\))\S|\Z)", text))
    has = lambda name: re.search(rf"\b{name}\b", kernels) is not None  # noqa: E731
    coupled = has("STATES")
    said = "In kernels: n counts the heads of all sequences, m the chunks of all of them; x and head are"
    said += " those of n, t the tokens and i their places in a chunk, d and v channels of keys and values."
    if coupled:
        said += (
            " Of states that are coupled: s and e are two, j rows, c parts of their channels; u is"
        )
        said += " what is written, R are rows of all kinds,"
        said += " last Z, what is erased at p;" * has("Z")
    elif has("u"):
        times = ", times w" * bool(re.search(r"_w\(|\bw \+ n\b", kernels))
        at = "p" if has("p") else "k"
        said += f" Of a scan: u is written{times}{f', and b erases at {at}' * (has('erase') or has('inverse'))};"
        said += " R are the rows that come of it,"
    if coupled or has("u"):
        said += " X inverses," * (has("X") and has("inverse"))
        said += " h a block of the state transposed; what they are worth are g and, of rows, Y."
    products = [n for n in ("Rg", "Yh", "YR", "Oh") if has(n)]
    said += f" {listed(products)} are products of two." if products[1:] else ""
    if twice := next((n for n in ("YR_t", "A_t", "D_t") if has(n)), None):
        said += (
            f" One that is needed transposed, too, as {twice}, is made twice: with the transpose of"
        )
        said += " a product some versions of Triton multiply wrongly on Hopper."
    said += " What is behind a name with _x, _h, _t is a stride."
    kinds = [x for kind, x in _MADE.items() if re.search(rf"\b{kind}_[a-z]", kernels)]
    said += f" Gates are made of what is theirs {listed(kinds)}." if kinds else ""
    if has("packing"):
        said += " Where N sequences are packed in one, n counts its heads, and packing says where they are."
    return "".join(f"# {line}\n" for line in wrap(said, WIDTH - 2))
