"""Losses that count how often they are traced, where another number must not compile."""

from typing import Any

import equinox as eqx


class Hashable(list):
    """A list that is a static field."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Counted(eqx.Module):
    """A loss that counts how often it is traced."""

    inner: Any
    count: Hashable = eqx.field(static=True)

    def __call__(self, model):
        self.count.append(1)
        return self.inner(model)
