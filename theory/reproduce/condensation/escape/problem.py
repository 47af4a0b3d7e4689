"""Starts of unit variance, and the outer weights as three factors in a row."""

from typing import NamedTuple

import jax
import numpy as np

from gflow.models import LastTokenTransformer

#: Of the simulated starts.
WIDTH = 16
#: a, B, c of E = a·Bc.
Chain = tuple[np.ndarray, np.ndarray, np.ndarray]


class Start(NamedTuple):
    """A model of unit variance, and v."""

    model: LastTokenTransformer
    v: np.ndarray

    @property
    def chain(self) -> Chain:
        return chain(self.model, self.v)


def start(seed: int) -> Start:
    """E > 0 at the start, so that the paper's bound holds from there on."""
    model = LastTokenTransformer.small(WIDTH, WIDTH, log_epsilon=0.0, key=jax.random.key(seed))
    v = np.random.default_rng(seed).standard_normal(WIDTH)
    v /= np.linalg.norm(v)
    a, b, c = chain(model, v)
    return Start(model, v if a @ b @ c > 0 else -v)


def chain(model: LastTokenTransformer, v: np.ndarray) -> Chain:
    """a = (vW_V)ᵀ, B = W1, c = W2."""
    value, inner, readout = (np.asarray(x.value) for x in (model.value, model.inner, model.readout))
    return v @ value, inner, readout


def gaussian(d: int, seed: int) -> Chain:
    """Entries of unit variance."""
    rng = np.random.default_rng([d, seed])
    return rng.standard_normal(d), rng.standard_normal((d, d)), rng.standard_normal(d)
