r"""Dormant columns of one head at finite size, and the gauge of one orbit in that of the next.

An orbit ends with its active columns in some gauge and its dormant ones along the eigenvectors
of the next plateau, up to signs; the next orbit starts in the singular basis of the saddle. On
the first plateau that tells them apart columns have no direction yet. With H the symmetric
matrix of the plateau and F = QL·(a rotation), Q its eigenvectors from the largest eigenvalue
down, L lower trapezoidal, column j of e^{Ht}F is in the graded gauge

    q_j + Σ_{i>j} (L_ij/L_jj) e^{−(h_j − h_i)t} q_i − Σ_{i<j} (L_ji/L_ii) e^{−(h_i − h_j)t} q_i.
"""

import numpy as np

from .column_piece import Block
from .columns import Columns
from .fast import Piece
from .part import Part
from .remainder_modes import Modes
from .symmetric_columns import SymmetricColumns

#: Directions whose growth rates differ by less than this, of the largest, never part.
_ALIKE = 1e-9


class ColumnModes(Modes):
    """Columns of one head: dormant ones are sources of the matrices that they make alone."""

    share = 1.0

    def __init__(self, piece: Piece, saddle: Piece, part: Part):
        assert isinstance(piece, Block)
        assert isinstance(saddle, Block)
        assert isinstance(part, Columns)
        self.piece, self.part = piece, part
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

    def settled(self, state):
        if self.part.free is not None:
            return state
        x = state[: self.cut].reshape(self.rows, self.count).copy()
        x[:, self.items] = self.part.directions
        return np.concatenate([x.ravel(), state[self.cut :]])

    def exponents(self, tau):
        left = self._of_items(self.part.exponent - self.part.rates * tau)
        return np.where(self.living, np.nan, left)

    def held(self, state):
        """The last column of a square leaf of full width keeps to one branch, [u; v] or [u; −v]."""
        if not (self.piece.drifts and self.part.full and bool(self.piece.graded)):
            return None
        if self.living[-1]:
            return None
        x = state[:, : self.cut].reshape(-1, self.rows, self.count).copy()
        x[..., :-1] = 0.0
        x[:, self.piece.split :, -1] *= -1.0
        flat = np.zeros_like(state)
        flat[:, : self.cut] = x.reshape(len(state), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def ends(self, state, slope, after):
        asleep = np.flatnonzero(~self.rest)
        end, tail = state.copy(), np.zeros_like(state)
        tail[self.cut :] = np.where(self.rest, 0.0, slope[self.cut :])
        if isinstance(after, ColumnModes):
            tail[self.cut + asleep] = after.part.rates
            if self._graded and len(asleep):
                x = end[: self.cut].reshape(self.rows, self.count)
                along = self._targets(after).T @ x[:, asleep]
                minors = [np.linalg.slogdet(along[:j, :j])[1] for j in range(len(asleep) + 1)]
                end[self.cut + asleep] += np.diff(minors)
                x[:, asleep] = self._targets(after) * _sign(np.diag(along))[None]
        return np.stack([end, tail])

    @property
    def _graded(self) -> bool:
        return bool(self.piece.graded)

    def _targets(self, after: "ColumnModes") -> np.ndarray:
        """Directions of dormant columns on the next plateau."""
        return after.direction[:, int(np.sum(self.rest)) :]

    def carried(self, after, state):
        assert isinstance(after, ColumnModes)
        x, logs = state[: self.cut].reshape(self.rows, self.count), state[self.cut :]
        awake, asleep = np.flatnonzero(self.rest), np.flatnonzero(~self.rest)
        k, rows, count = len(awake), self.rows, self.count
        directions = np.arange(self.cut).reshape(rows, count)
        out = np.zeros((len(state), len(state)))
        # active columns: z'_j = Σ_i z_i R_ij with the rotation R that leads to the singular basis
        new, new_logs = after.direction, np.asarray(after.piece.log_size)
        old_z, new_z = x[:, awake] * np.exp(logs[awake]), new[:, :k] * np.exp(new_logs[:k])
        rotation = np.linalg.lstsq(old_z, new_z, rcond=None)[0] if k else np.zeros((0, 0))
        for j in range(k):
            y = new[:, j]
            across = np.eye(rows) - np.outer(y, y)
            for n, i in enumerate(awake):
                weight = rotation[n, j] * np.exp(logs[i] - new_logs[j])
                out[np.ix_(directions[:, j], directions[:, i])] = weight * across
                out[directions[:, j], self.cut + i] = weight * (across @ x[:, i])
                out[self.cut + j, directions[:, i]] = weight * y
                out[self.cut + j, self.cut + i] = weight * float(y @ x[:, i])
        if after.part.origin is not None and not self._graded:
            # sizes are those of volumes: log|PPᵀ|/2 of what the first j directions see
            seen = after.direction[:, k:].T
            z = x[:, asleep] * np.exp(logs[asleep])[None]
            last = np.zeros(len(state))
            for j in range(len(asleep)):
                inverse = np.linalg.pinv(seen[: j + 1] @ z) @ seen[: j + 1]
                row = np.zeros(len(state))
                for n, i in enumerate(asleep):
                    row[directions[:, i]] = inverse[n] * np.exp(logs[i])
                    row[self.cut + i] = float(inverse[n] @ z[:, n])
                out[self.cut + k + j] = row - last
                last = row
            return out
        for j, i in enumerate(asleep):
            turn = _sign(after.direction[:, k + j] @ x[:, i])
            out[directions[:, k + j], directions[:, i]] = turn
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
        values, basis = _growth(self.part)
        free, sizes = self.part.origin
        seen = basis.T @ (free * np.exp(sizes - np.max(sizes))[None])
        lower = np.asarray(np.linalg.qr(seen.T, mode="r")).T
        count = lower.shape[1]
        lower = lower / np.where(np.diag(lower) == 0.0, 1.0, np.diag(lower))[None]
        gap = values[None, :count] - values[:, None]
        apart = gap > _ALIKE * np.max(np.abs(values), initial=1e-300)
        for n, t in enumerate(waited):
            if t < 0.0:
                out[n] = 1.0
                continue
            left = np.where(apart, lower * np.exp(-np.where(apart, gap, 0.0) * t), 0.0)
            left[:count] -= left[:count].T
            x = np.zeros((self.rows, self.count))
            x[:, self.count - count :] = basis @ left
            out[n, : self.cut] = x.ravel()
        return out


def _growth(part: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the plateau's H, descending, and eigenvectors, signed as the columns are."""
    m, n = part.weight.shape
    if isinstance(part, SymmetricColumns):
        values, p = np.linalg.eigh(0.5 * (part.force + part.force.T))
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


def _sign(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0.0, -1.0, 1.0)
