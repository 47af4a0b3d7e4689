r"""Homogeneous forms in two variables on the unit circle: their critical angles, counted exactly.

A form h(w) = Σ_k terms_k w1^{p−k} w2^k is held as `terms`, k = 0 … p.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float


def binary_form(
    x: Float[np.ndarray, "n 2"], e: Float[np.ndarray, " n"], p: int, coefficient: float
) -> Float[np.ndarray, " k"]:
    """Terms of (coefficient/n) Σ_i e_i (w·x_i)^p. **Raises** ValueError for p < 1."""
    if p < 1:
        raise ValueError(f"p = {p}: the multiplicity of the activation at 0 is at least 1.")
    k = np.arange(p + 1)
    powers = x[:, :1] ** (p - k) * x[:, 1:] ** k
    binomials = np.array([math.comb(p, int(i)) for i in k])
    return coefficient * binomials * (e @ powers) / len(e)


def on_circle(
    terms: Float[np.ndarray, " k"], phi: Float[np.ndarray, "*t"] | float
) -> tuple[Float[np.ndarray, "*t"], Float[np.ndarray, "*t"], Float[np.ndarray, "*t"]]:
    """H(φ) = h(cos φ, sin φ) and its first two derivatives."""
    c, s = np.cos(phi)[..., None], np.sin(phi)[..., None]

    def form(coefficients):
        degree = len(coefficients) - 1
        k = np.arange(degree + 1)
        return np.asarray(np.sum(coefficients * c ** (degree - k) * s**k, axis=-1))

    value = form(terms)
    first = form(_slope(terms))
    second = form(_slope(_slope(terms)))
    return value, first, second


def critical_angles(terms: Float[np.ndarray, " k"]) -> Float[np.ndarray, " a"]:
    """Zeros of H' in [0, 2π), ascending: at most 2p.

    **Raises:** ValueError where H is constant, to rounding.
    """
    p = len(terms) - 1
    slope = _slope(terms)
    size = float(np.max(np.abs(slope)))
    if size <= 1e-14 * float(np.max(np.abs(terms))):
        raise ValueError("h is constant on the circle: no direction is preferred.")
    # H' = cos^p φ · q(tan φ): the binary form of slope is q, homogenised
    exact = [Fraction(float(s)) for s in slope]
    degree = max(i for i, s in enumerate(exact) if s)
    simple, count = _simple_part(exact[: degree + 1])
    roots = np.roots([float(c) for c in reversed(simple)])
    # the real ones are those nearest to the real axis
    real = roots[np.argsort(np.abs(roots.imag) / (1 + np.abs(roots) ** 2))][:count].real
    half = np.concatenate([np.arctan(real), [0.5 * math.pi] * (degree < p)])
    return np.sort(np.mod(np.concatenate([half, half + math.pi]), 2 * math.pi))


def _slope(terms: np.ndarray) -> np.ndarray:
    """The form w1 ∂₂h − w2 ∂₁h, which is dH/dφ on the circle."""
    p = len(terms) - 1
    k = np.arange(p + 1)
    out = np.zeros(p + 1)
    out[:-1] += k[1:] * terms[1:]
    out[1:] -= (p - k[:-1]) * terms[:-1]
    return out


def _simple_part(poly: list[Fraction]) -> tuple[list[Fraction], int]:
    """`poly` (ascending) without repeated factors, and its number of real roots, by Sturm."""
    chain = [poly, [i * c for i, c in enumerate(poly)][1:]]
    while chain[-1]:
        chain.append([-c for c in _divided(chain[-2], chain[-1])[1]])
    chain.pop()
    signs = [
        [(1 if c[-1] > 0 else -1) * (side if len(c) % 2 == 0 else 1) for c in chain]
        for side in (-1, 1)
    ]
    below, above = (sum(a != b for a, b in itertools.pairwise(s)) for s in signs)
    # the last of the chain is the greatest common divisor with the derivative
    return _divided(poly, chain[-1])[0], below - above


def _divided(poly: list[Fraction], by: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Quotient and remainder, without leading zeros."""
    rest, quotient = list(poly), []
    while len(rest) >= len(by):
        factor, shift = rest[-1] / by[-1], len(rest) - len(by)
        quotient.append(factor)
        rest = [c - factor * by[i - shift] if i >= shift else c for i, c in enumerate(rest)][:-1]
    while rest and not rest[-1]:
        rest.pop()
    return quotient[::-1], rest
