r"""Dormant columns of one head at finite size, and the gauge of one orbit in that of the next.

An orbit ends with its active columns in some gauge and its dormant ones along the eigenvectors
of the next plateau, up to signs; the next orbit starts in the singular basis of the saddle. On
the first plateau that tells them apart columns have no direction yet. With H the symmetric
matrix of the plateau and F = QL·(a rotation), Q its eigenvectors from the largest eigenvalue
down, L lower trapezoidal, column j of e^{Ht}F is in the graded gauge

    q_j + Σ_{i>j} (L_ij/L_jj) e^{−(h_j − h_i)t} q_i − Σ_{i<j} (L_ji/L_ii) e^{−(h_i − h_j)t} q_i.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .column_piece import Block
from .columns import Columns
from .fast import Piece
from .part import Part, log_abs
from .remainder_modes import Modes
from .symmetric_columns import SymmetricColumns

#: Directions whose growth rates differ by less than this, of the largest, never part.
_ALIKE = 1e-9


class ColumnModes(Modes):
    """Columns of one head: dormant ones are sources of the matrices that they make alone."""

    share = 1.0

    def __init__(self, piece: Piece, saddle: Piece, part: Part, after: Part):
        assert isinstance(piece, Block)
        assert isinstance(saddle, Block)
        assert isinstance(part, Columns)
        assert isinstance(after, Columns)
        self.piece, self.part, self.after = piece, part, after
        self.direction = np.asarray(piece.direction)
        self.rows, self.count = self.direction.shape
        self.cut = self.rows * self.count
        self.living, self.rest = np.asarray(piece.living), np.asarray(saddle.living)
        self.column, self.sign = np.arange(self.count), np.ones(self.count)
        # the last columns are the dormant ones of the part, entering ones the first of these
        items = len(part.exponent)
        dormant = np.flatnonzero(~self.living)
        first = np.arange(self.count - items, self.count)
        self.items = first if len(dormant) < items else dormant

    def _of_items(self, values: np.ndarray) -> np.ndarray:
        out = np.zeros(self.count)
        out[self.items] = values
        return out

    def log_sizes(self, scale, waited):
        part = self.part
        return self._of_items(part.size - part.exponent * scale + part.rates * waited)

    def gained(self, state, s):
        return state[:, self.cut :] - state[:1, self.cut :]

    def rates(self, velocity):
        return velocity[..., self.cut :]

    def settled(self, piece, state):
        if self.after.free is not None:
            return piece, state
        x = state[: self.cut].reshape(self.rows, self.count).copy()
        x[:, ~self.rest] = self.after.directions
        graded = eqx.tree_at(lambda b: b.graded, piece, jnp.asarray(True))
        return graded, np.concatenate([x.ravel(), state[self.cut :]])

    def exponents(self, tau):
        left = self._of_items(self.part.exponent - self.part.rates * tau)
        return np.where(self.living, np.nan, left)

    def kept(self, state):
        """Both halves of a square's columns alike; a last column on its branch, [u; v] or [u; −v].

        The latter where a leaf is square and of full width, `Block.recentred`.
        """
        size, split = self.cut + self.count, self.piece.split
        if isinstance(self.part, SymmetricColumns):
            places = np.arange(self.cut).reshape(2, split, self.count)
            swap = np.eye(size)
            swap[: self.cut] = swap[places[::-1].ravel()]
            return 0.5 * (np.eye(size) + swap)[None]
        if not (self.piece.drifts and bool(self.piece.graded)) or self.living[-1]:
            return None
        x = state[:, : self.cut].reshape(-1, self.rows, self.count).copy()
        x[..., :-1] = 0.0
        x[:, split:, -1] *= -1.0
        other = np.zeros_like(state)
        other[:, : self.cut] = x.reshape(len(state), -1)
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        return np.eye(size)[None] - other[:, :, None] * other[:, None, :]

    @property
    def _aligns(self) -> bool:
        """Whether its columns, without a direction so far, are told apart on the next plateau."""
        return self.after.free is None and not bool(self.piece.graded)

    def left(self, states, lag, end, slope):
        asleep = np.flatnonzero(~self.rest)
        end, tail = end.copy(), np.zeros_like(end)
        tail[self.cut + asleep] = self.after.rates
        if self.after.free is None and not self._aligns:
            x = end[: self.cut].reshape(self.rows, self.count)
            along = self.after.directions.T @ x[:, asleep]
            minors = [np.linalg.slogdet(along[:j, :j])[1] for j in range(len(asleep) + 1)]
            end[self.cut + asleep] += np.diff(minors)
            x[:, asleep] = self.after.directions * _sign(np.diag(along))[None]
        out = states - end - tail * lag[:, None]
        if self._aligns:
            sizes = self._aligned(end)[1] + self.after.rates * lag[:, None]
            for n, state in enumerate(states):
                turned, logs = self._aligned(state)
                x = np.zeros((self.rows, self.count))
                x[:, asleep] = turned
                out[n, self.cut + asleep] = logs - sizes[n]
                shown = out[n, : self.cut].reshape(self.rows, self.count)
                out[n, : self.cut] = np.where(self.rest[None], shown, x).ravel()
            return out
        return out @ self.landed(end).T

    def _aligned(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of columns without a direction so far: how far they are from those of the plateau.

        And the logarithms of their sizes by volumes.
        """
        x, logs = state[: self.cut].reshape(self.rows, self.count), state[self.cut :]
        basis, left, sizes = _flag(self.after, x[:, ~self.rest], logs[~self.rest])
        return basis @ left(0.0), sizes

    def landed(self, state):
        x, logs = state[: self.cut].reshape(self.rows, self.count), state[self.cut :]
        asleep = np.flatnonzero(~self.rest)
        places = np.arange(self.cut).reshape(self.rows, self.count)
        out = np.eye(len(state))
        if self._aligns:
            # sizes are those of volumes: log|PPᵀ|/2 of what the first j directions see
            order = asleep[np.argsort(-logs[asleep])]
            seen, sizes = self.after.directions.T, np.exp(logs[order] - np.max(logs[order]))
            q, r = np.linalg.qr((seen @ (x[:, order] * sizes[None])).T)
            last = np.zeros(len(state))
            for j, to in enumerate(asleep):
                inverse = q[:, : j + 1] @ np.linalg.inv(r[: j + 1, : j + 1]).T @ seen[: j + 1]
                row = np.zeros(len(state))
                for n, i in enumerate(order):
                    row[places[:, i]] = inverse[n] * sizes[n]
                    row[self.cut + i] = sizes[n] * float(inverse[n] @ x[:, i])
                out[self.cut + to], last = row - last, row
                out[places[:, to]] = 0.0
        elif self.after.free is None:
            signs = _sign(np.sum(self.after.directions * x[:, asleep], axis=0))
            for i, sign in zip(asleep, signs, strict=True):
                out[places[:, i], places[:, i]] = sign
        return out

    def carried(self, after, state):
        assert isinstance(after, ColumnModes)
        x, logs = state[: self.cut].reshape(self.rows, self.count), state[self.cut :]
        awake, asleep = np.flatnonzero(self.rest), np.flatnonzero(~self.rest)
        k = len(awake)
        places = np.arange(self.cut).reshape(self.rows, self.count)
        out = np.zeros((len(state), len(state)))
        # z'_j = Σ_i z_i R_ij with the rotation R that leads to the singular basis
        new, new_logs = after.direction, np.asarray(after.piece.log_size)
        old_z, new_z = x[:, awake] * np.exp(logs[awake]), new[:, :k] * np.exp(new_logs[:k])
        rotation = np.linalg.lstsq(old_z, new_z, rcond=None)[0] if k else np.zeros((0, 0))
        for j in range(k):
            y = new[:, j]
            across = np.eye(self.rows) - np.outer(y, y)
            for n, i in enumerate(awake):
                weight = rotation[n, j] * np.exp(logs[i] - new_logs[j])
                out[np.ix_(places[:, j], places[:, i])] = weight * across
                out[places[:, j], self.cut + i] = weight * (across @ x[:, i])
                out[self.cut + j, places[:, i]] = weight * y
                out[self.cut + j, self.cut + i] = weight * float(y @ x[:, i])
        for j, i in enumerate(asleep):
            out[places[:, k + j], places[:, i]] = 1.0
            out[self.cut + k + j, self.cut + i] = 1.0
        return out

    def successor(self):
        order = np.argsort(~self.rest, kind="stable")
        return np.argsort(order)

    @property
    def leading(self):
        shown = np.broadcast_to(self.living[None], self.direction.shape).ravel()
        return np.concatenate([shown, np.ones(self.count, bool)])

    def squared(self, deviation):
        turned = np.abs(deviation[: self.cut].reshape(self.rows, self.count))
        return np.concatenate([np.zeros(self.cut), np.max(turned, axis=0)])

    def aligning(self, waited):
        out = np.zeros((len(waited), self.cut + self.count))
        if self.part.origin is None:
            return out
        basis, left, _ = _flag(self.part, *self.part.origin)
        for n, t in enumerate(waited):
            x = np.zeros((self.rows, self.count))
            x[:, self.items] = basis @ left(float(t))
            out[n, : self.cut] = x.ravel()
        return out


def _flag(
    part: Columns, free: np.ndarray, logs: np.ndarray
) -> tuple[np.ndarray, Callable[[float], np.ndarray], np.ndarray]:
    """Eigenvectors of a plateau, what of the others is in every column a time later, log-sizes."""
    values, basis = _growth(part)
    # the largest first: a triangle then keeps the relative accuracy of every one
    order, most = np.argsort(-logs), float(np.max(logs))
    seen = basis.T @ (free * np.exp(logs - most)[None])[:, order]
    lower = np.asarray(np.linalg.qr(seen.T, "r")).T
    sizes = np.diag(lower)
    lower = lower / np.where(sizes == 0.0, 1.0, sizes)[None]
    count = len(sizes)
    gap = values[None, :count] - values[:, None]
    apart = gap > _ALIKE * np.max(np.abs(values), initial=1e-300)

    def left(t: float) -> np.ndarray:
        found = np.where(apart, lower * np.exp(-np.where(apart, gap, 0.0) * t), 0.0)
        found[:count] -= found[:count].T
        return found

    return basis, left, log_abs(sizes) + most


def _growth(part: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the plateau's H, descending, and eigenvectors, signed as the columns are."""
    m, n = part.weight.shape
    if isinstance(part, SymmetricColumns):
        values, p = np.linalg.eigh(part.force + part.force.T)
        values, basis = values[::-1], np.concatenate([p, p])[:, ::-1] / np.sqrt(2.0)
    else:
        u, h, vt = np.linalg.svd(part.force)
        r = len(h)
        both = np.concatenate([u[:, :r], vt[:r].T]) / np.sqrt(2.0)
        other = np.concatenate([u[:, :r], -vt[:r].T]) / np.sqrt(2.0)
        rest = np.zeros((m + n, m + n - 2 * r))
        rest[:m, : m - r], rest[m:, m - r :] = u[:, r:], vt[r:].T
        values = np.concatenate([h, np.zeros(rest.shape[1]), -h[::-1]])
        basis = np.concatenate([both, rest, other[:, ::-1]], axis=1)
    # of eigenvectors the part has chosen a sign, and where forces vanish a basis
    count = len(part.exponent)
    basis = basis.copy()
    basis[:, :count] *= _sign(np.sum(basis[:, :count] * part.directions, axis=0))[None]
    return values, basis


def _sign(x: np.ndarray | np.floating) -> np.ndarray:
    return np.where(x < 0.0, -1.0, 1.0)
