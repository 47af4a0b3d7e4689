r"""Dormant columns of one head at finite size, and the gauge of one orbit in that of the next.

An orbit ends with its active columns in some gauge and its dormant ones along the eigenvectors
of the next plateau, up to signs; the next orbit starts in the singular basis of the saddle. On
the first plateau that tells them apart columns have no direction yet. With H the symmetric
matrix of the plateau and F = QL·(a rotation), Q its eigenvectors from the largest eigenvalue
down, L lower trapezoidal, column j of e^{Ht}F is in the graded gauge

    q_j + Σ_{i>j} (L_ij/L_jj) e^{−(h_j − h_i)t} q_i − Σ_{i<j} (L_ji/L_ii) e^{−(h_i − h_j)t} q_i.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow.internal import least_squares

from ..gradual_rank._column_orbit import Block
from ..gradual_rank._columns import Columns
from ..gradual_rank._symmetric import SymmetricColumns
from ._flag import flag, graded, sign_of
from ._modes import Modes


class ColumnModes(Modes[Block, Columns]):
    """Columns of one head: dormant ones are sources of the matrices that they make alone."""

    share = 1.0

    def __init__(self, piece: Block, saddle: Block, part: Columns, after: Columns):
        super().__init__(piece, saddle, part, after)
        self.direction = np.asarray(piece.direction)
        self.rows, self.count = self.direction.shape
        self.cut = self.rows * self.count
        self.width = self.cut + self.count
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
        if self.after.untold:
            return piece, state
        x = state[: self.cut].reshape(self.rows, self.count).copy()
        x[:, ~self.rest] = self.after.directions
        graded = eqx.tree_at(lambda b: b.level, piece, jnp.arange(self.count))
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
        if not (self.piece.drifts and bool(self.piece.told)) or self.living[-1]:
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
        return self.part.untold and not self.after.untold

    def left(self, states, lag, end, slope):
        asleep = np.flatnonzero(~self.rest)
        end, tail = end.copy(), np.zeros_like(end)
        tail[self.cut + asleep] = self.after.rates
        if not self.after.untold and not self._aligns:
            x = end[: self.cut].reshape(self.rows, self.count)
            signs, volumes = self._seen(x[:, asleep])
            end[self.cut + asleep] += volumes
            x[:, asleep] = self.after.directions * signs[None]
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

    def turning(self, end, span):
        out = np.zeros_like(end)
        if self.after.untold or self.rest.all():
            return out
        x, logs = end[: self.cut].reshape(self.rows, self.count), end[self.cut :]
        shown, asleep = np.zeros_like(x), np.flatnonzero(~self.rest)
        if self._aligns:
            basis, left, _ = flag(self.after, x[:, asleep], logs[asleep])
            shown[:, asleep] = basis @ left(span)
        else:
            signs, volumes = self._seen(x[:, asleep])
            turned, gained = graded(self.after, x[:, asleep], span)
            shown[:, asleep] = turned * signs[None] - self.after.directions
            out[self.cut + asleep] = gained - volumes - self.after.rates * span
        out[: self.cut] = shown.ravel()
        return out

    def _seen(self, dormant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of dormant columns: signs, and log-sizes of what grows on, as volumes."""
        along = self.after.directions.T @ dormant
        minors = [np.linalg.slogdet(along[:j, :j])[1] for j in range(len(along) + 1)]
        return sign_of(np.diag(along)), np.diff(minors)

    def _aligned(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of columns without a direction so far: how far they are from those of the plateau.

        And the logarithms of their sizes by volumes.
        """
        x, logs = state[: self.cut].reshape(self.rows, self.count), state[self.cut :]
        basis, left, sizes = flag(self.after, x[:, ~self.rest], logs[~self.rest])
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
        elif not self.after.untold:
            signs = sign_of(np.sum(self.after.directions * x[:, asleep], axis=0))
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
        rotation = least_squares(old_z, new_z) if k else np.zeros((0, 0))
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

    def beyond(self, moved, sizes):
        split, x = self.piece.split, np.abs(self.direction)
        x[:, ~self.rest] = 0.0 if self.after.untold else np.abs(self.after.directions)
        turn, growth = moved[: self.cut].reshape(x.shape), moved[self.cut :]
        living = np.where(self.rest, np.exp(2.0 * np.asarray(self.piece.log_size)), 0.0)

        def made(a, b, size):
            return (a[:split] * size[None]) @ b[split:].T

        # all of it, less what is linear in `moved` and what is linear in `sizes`
        whole = made(x + turn, x + turn, (living + sizes) * np.exp(2.0 * growth))
        linear = made(x, x, living * (1.0 + 2.0 * growth) + sizes)
        linear += made(x, turn, living) + made(turn, x, living)
        return np.maximum(whole - linear, 0.0).ravel()

    def squared(self, deviation):
        turned = np.abs(deviation[: self.cut].reshape(self.rows, self.count))
        return np.concatenate([np.zeros(self.cut), np.max(turned, axis=0)])

    def aligning(self, waited):
        out = np.zeros((len(waited), self.cut + self.count))
        if self.part.origin is None:
            return out
        basis, left, _ = flag(self.part, *self.part.origin)
        for n, t in enumerate(waited):
            x = np.zeros((self.rows, self.count))
            x[:, self.items] = basis @ left(float(t))
            out[n, : self.cut] = x.ravel()
        return out
