"""Functions of the user as programs: what they close over is data, and never out of date.

A function is traced once a call of the public functions. Arrays that it reads from anywhere
(globals, attributes, cells, NumPy buffers) become data of the program; everything else it reads
is part of the program, and the compiled code of two programs is shared where they are equal
(`program_key`), not where their functions are the same object. The user's Python is not called
again.
"""

import itertools
import os
import re
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxprs_in_params
from jaxtyping import Array

from ._key import key
from ._own import own

#: JAX keeps what it has traced of inner functions (of `jit`, `scan`, `cond`, …) by their
#: identity, with the arrays that they read; in another context it traces them anew.
_context = jax.make_user_context()
_contexts = itertools.count(1)
#: Where it writes functions of its own that call none of the user's.
_PARTS = ("numpy", "nn", "lax", "scipy", "random.py", "prng.py")
_JAX = tuple(os.path.join(os.path.dirname(jax.__file__), "_src", part) for part in _PARTS)
#: Primitives whose inner function is an addition or the like.
_COMBINING = ("scatter", "reduce", "select_and_scatter", "argm")


class Program:
    """What a function computes of its arguments and its data; equal ones are one object.

    `read`: the data of the last call. `source`, `like`: of what it was traced, for a pickle.
    """

    def __init__(self, closed: ClosedJaxpr, out_tree: Any, source: Callable, like: tuple):
        self.jaxpr, self.out_tree = closed.jaxpr, out_tree
        self.source, self.like, self.read = source, like, closed.consts

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.source, self.like, self.text())

    def text(self) -> str:
        return re.sub(r"0x[0-9a-f]+", "", str(self.jaxpr))


_programs: weakref.WeakValueDictionary[Hashable, Program] = weakref.WeakValueDictionary()


#: Programs of gflow's own functions, by what these look like; forgotten when there are too many.
_known: dict[Hashable, "Traced"] = {}
_MOST_KNOWN = 256


class Traced(eqx.Module):
    """A function of arrays, made by `traced`."""

    consts: list[Array]
    program: Program = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        flat = jax.tree.leaves(arguments)
        out = jax.core.eval_jaxpr(self.program.jaxpr, self.consts, *flat)
        return jax.tree.unflatten(self.program.out_tree, out)


def traced(function: Callable, *like: Any, what: str) -> Traced:
    """`function` of arguments like these (arrays, or their shapes and dtypes), closure and all.

    `what` names the function in messages. Where it is not what it was in the call before it is
    traced twice: the two differ if it depends on more than its arguments and data, such as a
    random number or a counter. What is made of gflow's classes alone is not traced again.

    **Raises:** ValueError for a function that cannot be traced, with what to change, and for one
    that is two functions in two calls.
    """
    like = jax.tree.map(_struct, like)
    known = own(function, like)
    if known is not None and known in _known:
        return _known[known]
    one, kept = _trace(function, like, what)
    if kept:
        one, _ = _trace(function, like, what, anew=True)
    closed, tree = one
    if any(isinstance(c, jax.core.Tracer) for c in closed.consts):
        raise ValueError(UNTRACED.format(what=what))
    found = key(closed), tree
    program = _programs.get(found)
    if program is None or not all(map(_equal, closed.consts, program.read)):
        two, _ = _trace(function, like, what, anew=kept)
        if not _same(one, two):
            raise ValueError(_CHANGES.format(what=what, returned=_two_values(function, like)))
        program = _programs.setdefault(found, Program(closed, tree, function, like))
        program.read = closed.consts
    made = Traced([_own(c) for c in closed.consts], program)
    if known is not None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[known] = made
    return made


#: A jaxpr with its constants, and the structure of its result.
_Text = tuple[ClosedJaxpr, Any]


def _trace(function: Callable, like: tuple, what: str, anew: bool = False) -> tuple[_Text, bool]:
    """The program, and whether JAX may have kept a part of it; `anew`: it is not used."""
    with _context(next(_contexts) if anew else _context.value), _explained(what):
        # a function object of its own: JAX would return what it has traced of this one before
        closed, out = jax.make_jaxpr(lambda *x: function(*x), return_shape=True)(*like)
        kept = _keeps(closed.jaxpr)
        if any(_has_consts(e) for e in closed.jaxpr.eqns):
            flat = jax.tree.leaves(like)
            closed = jax.make_jaxpr(lambda *x: _opened(closed.jaxpr, closed.consts, x))(*flat)
    return (closed, jax.tree.structure(out)), kept


def _keeps(jaxpr: Jaxpr) -> bool:
    """Whether an inner function may be the user's: all but those that JAX is known to write."""
    for e in jaxpr.eqns:
        inner = list(jaxprs_in_params(e.params))
        if not inner or e.primitive.name.startswith(_COMBINING):
            continue
        names = [x.debug_info.func_filename or "" for x in inner]
        theirs = e.primitive.name in ("jit", "custom_jvp_call") and all(map(_is_jax, names))
        if not theirs or any(map(_keeps, inner)):
            return True
    return False


def _is_jax(filename: str) -> bool:
    return filename.startswith(_JAX)


def _same(one: _Text, two: _Text) -> bool:
    if one[1] != two[1] or key(one[0], strict=False) != key(two[0], strict=False):
        return False
    return all(map(_equal, one[0].consts, two[0].consts))


def _two_values(function: Callable, like: tuple) -> str:
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), like)
    try:
        one, two = (np.asarray(function(*ones)).item() for _ in range(2))
    except Exception:  # of whatever the user's function does
        return "is not the same in two calls"
    return f"returned {one:.6g} and {two:.6g} for the same weights or the same time"


_CHANGES = (
    "{what} {returned}: it depends on random numbers of NumPy or Python, a counter, the time, or "
    "something else that changes from call to call. Draw or compute that once, outside, and let "
    "the function read it."
)

UNTRACED = (
    "{what} holds a value that JAX is tracing: jax.jit, jax.vmap and jax.grad do not go through "
    "the calls of gflow, which run a loop of compiled rounds and decide between them what to do. "
    "Call it outside of them. For many runs at once use gflow.simulate_batch; for the derivative "
    "of a result take finite differences of runs, whose error bars say how small the step may be."
)


def check_untraced(**arguments: Any) -> None:
    """**Raises:** ValueError where one of the arguments holds a tracer."""
    for name, tree in arguments.items():
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree)):
            raise ValueError(UNTRACED.format(what=name))


class _explained:
    """Errors of the user's function as sentences."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, ValueError) or not isinstance(error, Exception):
            return
        why = f"raised {type(error).__name__}: {error}"
        for kinds, sentence in _REMEDIES:
            if isinstance(error, kinds):
                why = sentence
                break
        raise ValueError(f"{self.what} {why}") from error


_REMEDIES: list[tuple[Any, str]] = [
    (
        jax.errors.TracerArrayConversionError,
        "hands the weights to NumPy, which can neither be differentiated nor compiled. Use "
        "jax.numpy in place of numpy for what depends on the model (data may stay NumPy arrays).",
    ),
    (
        (jax.errors.TracerBoolConversionError, jax.errors.NonConcreteBooleanIndexError),
        "decides in Python (if, while, and, or, a boolean index) on a value of the weights, which "
        "compiled code cannot. Use jnp.where, jnp.logical_and or jax.lax.cond.",
    ),
    (
        (jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError),
        "makes a Python number of a value of the weights (float(), int(), .item(), an index), "
        "which compiled code cannot. Leave it a JAX array.",
    ),
    (
        jax.errors.UnexpectedTracerError,
        "keeps a value from an earlier call (in a global, an attribute or a cache). Compute it "
        "anew in each call, or once before.",
    ),
]


def _has_consts(equation: Any) -> bool:
    if equation.primitive.name != "jit":
        return False
    closed = equation.params["jaxpr"]
    return bool(closed.consts) or any(map(_has_consts, closed.jaxpr.eqns))


def _opened(jaxpr: Jaxpr, consts: Any, arguments: Any) -> list[Any]:
    """The program with those inner functions under `jit` written out that close over arrays."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else values[x]

    for e in jaxpr.eqns:
        inputs = [read(x) for x in e.invars]
        if _has_consts(e):
            closed = e.params["jaxpr"]
            out = _opened(closed.jaxpr, closed.consts, inputs)
        else:
            with e.ctx.manager:
                out = e.primitive.bind(*inputs, **e.primitive.get_bind_params(e.params))
            out = out if e.primitive.multiple_results else [out]
        values |= zip(e.outvars, out, strict=True)
    return [read(x) for x in jaxpr.outvars]


def _struct(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))


def _own(x: Any) -> Array:
    """A NumPy array is copied: its owner may write to it."""
    return jnp.array(np.asarray(x), copy=True) if isinstance(x, np.ndarray) else jnp.asarray(x)


def _equal(one: Any, two: Any) -> bool:
    if one is two or isinstance(one, jax.core.Tracer):
        return True
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, two = jax.random.key_data(one), jax.random.key_data(two)
    one, two = np.asarray(one), np.asarray(two)
    same = one.__array_interface__["data"] == two.__array_interface__["data"]
    return same or one.tobytes() == two.tobytes()


def _again(source: Callable, like: tuple, text: str) -> Program:
    """A program that was pickled, from its function."""
    program = traced(source, *like, what="the pickled function").program
    if program.text() != text:
        raise ValueError(
            "What the objective reads besides its arrays is not what it was when this was "
            "pickled. Make it anew."
        )
    return program
