"""Where neurons point: angles, distances to orientations, 1 − |cos| without cancellation."""

import math

import numpy as np

from theory import two_layer_condensation as theory


def angles(inner: np.ndarray) -> np.ndarray:
    """Of the rows (m, 2), in [0, 2π)."""
    return np.arctan2(inner[:, 1], inner[:, 0]) % (2 * math.pi)


def nearest(angle: np.ndarray, limits: theory.Orientations) -> np.ndarray:
    """Distance of every angle to the nearest one that attracts."""
    wanted = limits.angle[limits.attracts != 0]
    return np.min(np.abs(np.angle(np.exp(1j * (angle[:, None] - wanted)))), axis=1)


def defects(inner: np.ndarray, g: np.ndarray) -> np.ndarray:
    """1 − |cos(w, g)| without cancellation."""
    unit = g / np.linalg.norm(g)
    along = inner @ unit
    across = np.linalg.norm(inner - along[..., None] * unit, axis=-1)
    length = np.hypot(along, across)
    return across**2 / (length * (length + np.abs(along)))
