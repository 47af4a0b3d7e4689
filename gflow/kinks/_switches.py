r"""The kinks of a loss, read from its program: ReLU, |x|, max, clip, where.

A program with K switching functions h_i is, with each branch held (mask a_i = 1 where h_i > 0),
a smooth function L_a: max(x, y) = y + a(x − y) with h = x − y, |x| = (2a − 1)x, select(h > 0,
p, q) = q + a(p − q). A `Rule` says what a_i is. Where L is continuous the jump of ∇L across
h_i = 0 is parallel to ∇h_i.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float, PyTree

#: Smooth functions with a max or |·| inside that cancels, by the name of their program.
_SMOOTH = {"logaddexp", "logsumexp", "softplus", "log_sigmoid", "silu", "logistic"}
_COMPARISONS = ("gt", "ge", "lt", "le")
_KINKS = {"max", "min", "abs", "clamp", "reduce_max", "reduce_min", "sign", *_COMPARISONS}
#: Functions whose values jump, whatever is done with them.
_JUMPS = {"floor", "ceil", "round"}
#: Operations with kinks inside that are not taken apart.
_OPAQUE = {
    "sort", "top_k", "cummax", "cummin", "reduce_window", "reduce_window_max",
    "reduce_window_min",
}  # fmt: skip
_LOOPS = {"while", "cond", "scan"}
#: What only moves entries about; a mask moves with them.
_MOVES = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "convert_element_type",
    "copy", "slice", "rev",
}  # fmt: skip
#: Results without a sign where all that goes in is without one.
_KEEP_SIGN = {
    "add", "mul", "div", "pow", "reduce_sum", "reduce_max", "stop_gradient", "concatenate", *_MOVES,
}  # fmt: skip
#: What is computed beforehand of numbers in the program, for their signs.
_ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "convert_element_type": np.float64,
}  # fmt: skip


class Rule(abc.ABC):
    """What stands for a branch: how two of them, or the values 1 and 0, are mixed."""

    @abc.abstractmethod
    def mask(self, k: int, h: Array) -> Array:
        """a for the functions of site k, in [0, 1]."""

    @abc.abstractmethod
    def mix(self, k: int, h: Array, high: Array, low: Array, slope: float) -> Array:
        """low + a·(high − low), where high − low = slope·h."""


class Natural(Rule):
    """The branches as the point itself decides them."""

    def mask(self, k: int, h: Array) -> Array:
        return (h > 0).astype(h.dtype)

    def mix(self, k: int, h: Array, high: Array, low: Array, slope: float) -> Array:
        return jnp.where(h > 0, high, low)


class _InOrder(Rule):
    """A rule with a number for each switching function, in their order."""

    def __init__(self, numbers: Float[Array, " k"]):
        self._numbers, self._ends = numbers, [0]

    def own(self, k: int, h: Array) -> Array:
        """The numbers of site k."""
        if k + 1 == len(self._ends):
            self._ends.append(self._ends[k] + h.size)
        own = self._numbers[self._ends[k] : self._ends[k + 1]]
        return own.reshape(h.shape).astype(h.dtype)


class Held(_InOrder):
    """Branches held by masks."""

    def mask(self, k: int, h: Array) -> Array:
        return self.own(k, h)

    def mix(self, k: int, h: Array, high: Array, low: Array, slope: float) -> Array:
        return _mixed(self.mask(k, h), high, low)


class Smoothed(_InOrder):
    """max(x, y) → y + (h + √(h² + δ²))/2, and a → (1 + h/√(h² + δ²))/2, with widths δ."""

    def _parted(self, k: int, h: Array) -> tuple[Array, Array]:
        """δ, and h in units of it: squares of 1e-200 would be zero."""
        width = self.own(k, h)
        return width, h / width

    def mask(self, k: int, h: Array) -> Array:
        x = self._parted(k, h)[1]
        return 0.5 * (1.0 + x / jnp.hypot(x, 1.0))

    def mix(self, k: int, h: Array, high: Array, low: Array, slope: float) -> Array:
        width, x = self._parted(k, h)
        return low + 0.5 * slope * (h + width * jnp.hypot(x, 1.0))


@dataclasses.dataclass(frozen=True)
class Site:
    """One operation with a kink, and the shape of its switching functions."""

    operation: str
    within: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Switches:
    """The switching functions of a loss that can be followed, and what cannot be.

    `opaque` are operations with kinks inside that are not taken apart, `jumps` those whose
    values jump.
    """

    sites: tuple[Site, ...] = ()
    opaque: tuple[str, ...] = ()
    jumps: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(site.size for site in self.sites)

    def describe(self, i: int) -> str:
        """The switching function number `i` in words."""
        for site in self.sites:
            if i < site.size:
                place = f", entry {i} of {site.shape}" if site.shape else ""
                return f"{site.operation} in {site.within}{place}"
            i -= site.size
        raise IndexError(i)


def find_switches(function: Callable[[PyTree], Array], weights: PyTree) -> Switches:
    """What the program of `function` switches on, as far as it depends on `weights`.

    ```python
    find_switches(lambda w: jnp.sum(jax.nn.relu(w)), jnp.ones(3)).count  # 3
    ```
    """
    closed = jax.make_jaxpr(function)(weights)
    found = _Reading(Natural())
    if _touches(closed.jaxpr):
        jax.eval_shape(lambda w: found.run(closed, jax.tree.leaves(w)), weights)
    return Switches(
        tuple(found.sites), tuple(dict.fromkeys(found.opaque)), tuple(dict.fromkeys(found.jumps))
    )


def read(
    function: Callable[[PyTree], Array], weights: PyTree, rule: Rule
) -> tuple[Float[Array, ""], Float[Array, " k"]]:
    """The value of `function` with branches by `rule`, and all switching functions in a row.

    The order of the functions is that of `find_switches`.
    """
    closed = jax.make_jaxpr(function)(weights)
    reading = _Reading(rule)
    value = reading.run(closed, jax.tree.leaves(weights))
    rows = [h.ravel() for h in reading.functions]
    return value, jnp.concatenate(rows) if rows else jnp.zeros((0,), value.dtype)


def _mixed(a: Any, high: Any, low: Any) -> Array:
    """low + a·(high − low), exact at a = 0 and 1, also where the other branch is not finite."""
    between = low + a * (high - low)
    return jnp.where(a == 1.0, high, jnp.where(a == 0.0, low, between))


class _Value(NamedTuple):
    """A value of the program: `moved` by the weights, `mask` of a predicate, never `negative`."""

    x: Any
    moved: bool
    mask: Any = None
    positive: bool = False


class _Reading:
    """One walk through a program."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.functions: list[Array] = []
        self.sites: list[Site] = []
        self.opaque: list[str] = []
        self.jumps: list[str] = []

    def run(self, closed: ClosedJaxpr, leaves: list[Any]) -> Array:
        inputs = [_Value(x, True) for x in leaves]
        return self._walk(closed.jaxpr, closed.consts, inputs, [True], "the objective")[0].x

    def _walk(
        self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: list[_Value], needed: list[bool],
        within: str,
    ) -> list[_Value]:  # fmt: skip
        live = _live(jaxpr, needed)
        values = dict(zip(jaxpr.constvars, (_Value(c, False) for c in consts), strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def look_up(v: Any) -> _Value:
            if isinstance(v, Literal):
                return _constant(v.val)
            return values[v]

        for eqn in jaxpr.eqns:
            ins = [look_up(v) for v in eqn.invars]
            wanted = [v in live for v in eqn.outvars]
            felt = any(wanted) and any(v.moved for v in ins)
            inner = _inner(eqn)
            if inner is not None and felt and inner[2] not in _SMOOTH and _opens(eqn, inner[0]):
                body, own, name = inner
                outs = self._walk(body, own, ins, wanted, name or within)
            else:
                outs = self._applied(eqn, ins, felt, within)
            values |= zip(eqn.outvars, outs, strict=True)
        return [look_up(v) for v in jaxpr.outvars]

    def _applied(self, eqn: Any, ins: list[_Value], felt: bool, within: str) -> list[_Value]:
        name, xs = eqn.primitive.name, [v.x for v in ins]
        if name in _ARITHMETIC and all(_known(v) for v in ins):
            return [_constant(_ARITHMETIC[name](*xs).astype(eqn.outvars[0].aval.dtype))]
        positive = _never_negative(eqn, [v.positive for v in ins])
        if felt and (kept := _unchanged(name, ins)) is not None:
            return [_Value(jnp.broadcast_to(kept, eqn.outvars[0].aval.shape), True, None, True)]
        if felt and name in _KINKS and _floating(xs[-1]):
            return [self._kink(eqn, xs, within)]
        if name == "select_n" and ins[0].mask is not None and len(xs) == 3:
            mask = jnp.broadcast_to(ins[0].mask, jnp.shape(xs[1])).astype(jnp.result_type(float))
            if _floating(xs[1]):
                return [_Value(_mixed(mask.astype(xs[1].dtype), xs[2], xs[1]), True)]
        if felt:
            if name in _JUMPS:
                self.jumps.append(name)
            if name in _OPAQUE or (name in _LOOPS and _touches_within(eqn)):
                self.opaque.append(name)
        out = _bind(eqn, xs)
        moved = any(v.moved for v in ins) and name != "stop_gradient"
        if eqn.primitive.multiple_results:
            return [_Value(x, moved) for x in out]
        mask = _moved_mask(eqn, ins)
        if mask is not None and name == "convert_element_type" and _floating(out):
            out = mask.astype(out.dtype)
        return [_Value(out, moved, mask, positive)]

    def _kink(self, eqn: Any, xs: list[Any], within: str) -> _Value:
        name = eqn.primitive.name

        def site(h: Array) -> int:
            self.functions.append(h)
            self.sites.append(Site(name, within, h.shape))
            return len(self.functions) - 1

        def larger(x: Array, y: Array) -> Array:
            h = x - y
            return self.rule.mix(site(h), h, x, y, 1.0)

        if name in ("reduce_max", "reduce_min"):
            sign = 1.0 if name == "reduce_max" else -1.0
            return _Value(sign * _tournament(sign * xs[0], eqn.params["axes"], larger), True)
        xs = list(jnp.broadcast_arrays(*xs))
        if name == "max":
            return _Value(larger(xs[0], xs[1]), True)
        if name == "min":
            return _Value(-larger(-xs[0], -xs[1]), True)
        if name == "clamp":
            low, x, high = xs
            return _Value(-larger(-larger(x, low), -high), True)
        if name == "abs":
            return _Value(self.rule.mix(site(xs[0]), xs[0], xs[0], -xs[0], 2.0), True)
        if name == "sign":
            return _Value(2.0 * self.rule.mask(site(xs[0]), xs[0]) - 1.0, True)
        h = xs[0] - xs[1] if name[0] == "g" else xs[1] - xs[0]
        mask = self.rule.mask(site(h), h)
        return _Value(mask > 0.5, True, mask)


def _tournament(x: Array, axes: Sequence[int], larger: Callable) -> Array:
    """The largest along `axes`, by pairs: n − 1 switching functions."""
    for axis in sorted(axes, reverse=True):
        while x.shape[axis] > 1:
            half = x.shape[axis] // 2
            cuts = ((0, half), (half, 2 * half), (2 * half, x.shape[axis]))
            low, high, odd = (jax.lax.slice_in_dim(x, i, j, axis=axis) for i, j in cuts)
            x = jnp.concatenate([larger(high, low), odd], axis)
        x = jnp.squeeze(x, axis)
    return x


def _bind(eqn: Any, xs: list[Any]) -> Any:
    return eqn.primitive.bind(*xs, **eqn.primitive.get_bind_params(eqn.params))


def _moved_mask(eqn: Any, ins: list[_Value]) -> Any:
    """The mask of a predicate made of predicates."""
    name, masks = eqn.primitive.name, [v.mask for v in ins]
    if all(m is None for m in masks):
        return None
    if name == "convert_element_type":
        return masks[0]
    if name in _MOVES:
        return _bind(eqn, [masks[0], *(v.x for v in ins[1:])])
    if name == "not":
        return 1.0 - masks[0]
    if name in ("and", "or"):
        p, q = (
            jnp.asarray(v.x).astype(next(m.dtype for m in masks if m is not None))
            if v.mask is None
            else v.mask
            for v in ins
        )
        return p * q if name == "and" else p + q - p * q
    return None


def _known(v: _Value) -> bool:
    """A number that the program itself contains."""
    return isinstance(v.x, np.generic | float | int | np.ndarray) and np.ndim(v.x) == 0


def _constant(x: Any) -> _Value:
    return _Value(x, False, None, not np.any(np.asarray(x) < 0))


def _never_negative(eqn: Any, ins: list[bool]) -> bool:
    """Whether a result cannot be negative, as far as a glance at the operation tells."""
    name = eqn.primitive.name
    if name in ("exp", "exp2", "logistic", "square", "abs", "sqrt"):
        return True
    if name == "integer_pow":
        return eqn.params["y"] % 2 == 0 or ins[0]
    if name == "mul" and eqn.invars[0] is eqn.invars[1]:
        return True
    if name == "max":
        return any(ins)
    if name == "select_n":
        return all(ins[1:])
    return name in _KEEP_SIGN and all(ins)


def _unchanged(name: str, ins: list[_Value]) -> Any:
    """x of |x| and max(x, 0) where x is never negative: no kink."""
    if name == "abs" and ins[0].positive:
        return ins[0].x
    if name == "max":
        for v, other in (ins, ins[::-1]):
            if v.moved and v.positive and not other.moved and _all_zero(other.x):
                return v.x
    return None


def _all_zero(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer) and not np.any(np.asarray(x))


def _floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _inner(eqn: Any) -> tuple[Jaxpr, Sequence[Any], str] | None:
    """The program an operation stands for (jit, remat, custom derivatives), and its name."""
    if eqn.primitive.name in _LOOPS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = eqn.params.get(key)
        if isinstance(body, ClosedJaxpr):
            body, consts = body.jaxpr, body.consts
        elif isinstance(body, Jaxpr):
            consts = []
        else:
            continue
        name = eqn.params.get("name") or getattr(body.debug_info, "func_name", "")
        return body, consts, name
    return None


def _bodies(eqn: Any) -> list[Jaxpr]:
    """All programs in the parameters of an operation."""
    values = [x for v in eqn.params.values() for x in (v if isinstance(v, tuple | list) else [v])]
    closed = [v.jaxpr for v in values if isinstance(v, ClosedJaxpr)]
    return closed + [v for v in values if isinstance(v, Jaxpr)]


def _opens(eqn: Any, body: Jaxpr) -> bool:
    """Derivatives of one's own are left alone where there is no kink."""
    return eqn.primitive.name in ("jit", "pjit") or _touches(body)


def _touches_within(eqn: Any) -> bool:
    return any(_touches(body) for body in _bodies(eqn))


def _touches(jaxpr: Jaxpr) -> bool:
    """Whether any operation of a program might have a kink."""
    named = _KINKS | _JUMPS | _OPAQUE
    return any(e.primitive.name in named or _touches_within(e) for e in jaxpr.eqns)


def _live(jaxpr: Jaxpr, needed: Sequence[bool]) -> set[Any]:
    """Variables that reach a needed output other than through stop_gradient."""
    live = {
        v for v, n in zip(jaxpr.outvars, needed, strict=True) if n and not isinstance(v, Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name != "stop_gradient" and any(v in live for v in eqn.outvars):
            live |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return live
