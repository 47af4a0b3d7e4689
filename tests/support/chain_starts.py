"""Random starts (a, B, c) of a chain of weights, and arrays of many digits as floats."""

import numpy as np


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def start(seed, m, n=None, scale=1.0):
    n = n or m
    x = scale * normal(seed, m + n + m * n)
    return x[:m], x[m + n :].reshape(m, n), x[m : m + n]


def arrays(x):
    return np.vectorize(float)(np.array(x, object))


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)
