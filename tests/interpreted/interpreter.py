"""What Triton's interpreter does again and again, done once: most of the time that kernels take in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def hasten() -> None:
    language_patched_once()
    types_made_once()
    what_is_one_is_equal()


def language_patched_once() -> None:
    """It patches Triton's language for a launch, and once more for every function that is called within: then it looks
    at all that the language has and finds it patched.
    """
    patch = interpreter._patch_lang

    def patched(fn: Any) -> Any:
        seen = [x for x in fn.__globals__.values() if x is tl or x is tl.core]
        if seen and not any(tl.core.is_builtin(x.load) for x in seen):
            return SimpleNamespace(restore=lambda: None)  # by the launch, which restores it too
        return patch(fn)

    interpreter._patch_lang = patched


def types_made_once() -> None:
    """Types of tensors, their names and shapes, which every operation makes, and the table of numpy's."""
    core = tl.core
    make_block, dtype_of = core.block_type.__init__, interpreter._get_np_dtype
    blocks: dict[tuple, dict[str, Any]] = {}
    shapes: dict[tuple, tuple[Any, Any]] = {}
    dtypes: dict[str, Any] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = [x.value if isinstance(x, core.constexpr) else x for x in shape]
        key = (element_ty.name, *sizes)
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = self.__dict__
        self.__dict__ = blocks[key]

    def tensor(self: Any, handle: Any, type: Any) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        sizes = tuple(type.shape) if type.is_block() else ()
        if sizes not in shapes:
            make_tensor(self, handle, type)
            shapes[sizes] = self.shape, self.numel
        self.shape, self.numel = shapes[sizes]

    def np_dtype(of: Any) -> Any:
        name = of.scalar.name
        if name not in dtypes:
            dtypes[name] = dtype_of(of)
        return dtypes[name]

    make_tensor = core.tensor.__init__
    core.block_type.__init__, core.tensor.__init__ = block, tensor
    interpreter._get_np_dtype = np_dtype


def what_is_one_is_equal() -> None:
    """Types that are one object, and shapes beside lists of numbers, are compared without a copy of either."""
    core = tl.core
    types, shapes = core.dtype.__eq__, core.tuple.__eq__

    def same_type(self: Any, other: Any) -> bool:
        return self is other or types(self, other)

    def same_shape(self: Any, other: Any) -> Any:
        if type(other) is list and all(type(x) is int for x in (*self.values, *other)):
            return core.constexpr(self.values == other)
        return shapes(self, other)

    core.dtype.__eq__, core.tuple.__eq__ = same_type, same_shape
