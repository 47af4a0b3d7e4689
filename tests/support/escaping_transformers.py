"""Small transformers at a saddle of order three, and the data that they escape on."""

import functools
import math

import diffrax
import jax
import numpy as np

import gflow
from gflow import models

LOG10 = math.log(10.0)
D = 4


def data(seed=0, n=64, s=5, d=D):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, s, d)) + 0.1, np.where(rng.random(n) < 0.6, 1.0, -1.0)


#: One explicit method, without the companion of the error bars: less to compile.
simulate = functools.partial(gflow.simulate, error_bars=False, solver=diffrax.Tsit5())

X, Y = data()


def small(exponent, seed=0, d=D, h=D, **options):
    key = jax.random.key(seed)
    return models.LastTokenTransformer.small(
        d, h, log_epsilon=-exponent * LOG10, key=key, **options
    )


def outer(model):
    return [np.asarray(w.value) for w in (model.value, model.inner, model.readout)]


def relative(x, y):
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))
