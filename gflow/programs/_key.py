"""What a traced program computes, as a key: equal keys, equal functions of arguments and data.

The key of a jaxpr lists its equations: primitive, operands by number, literals by their bits,
abstract values, parameters, and inner jaxprs in the same way. What is no plain value is compared
by identity. A Python function inside a parameter (the derivative rule of a custom primitive, a
host callback) is called after the key was made; it is described by its code and by all that it
reads, and where that cannot be told it equals nothing, so that its program is compiled anew.
"""

import functools
import sys
import types
from collections.abc import Hashable, Iterable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

#: Packages whose functions are taken to read nothing that changes.
_LIBRARIES = {"jax", "jaxlib", "numpy", "scipy", "equinox", "diffrax", "lineax", "optimistix"}
#: Parameters that follow from the others.
_DERIVED = {"out_trees"}
#: What JAX keeps beside a transformed function while it traces, and that tells nothing of it.
_ASIDE = {"Store", "EqualStore", "DynamicJaxprTrace", "object"}


class Same:
    """Equal to itself alone; it keeps the object, so that its address is not used again."""

    def __init__(self, of: Any = None):
        self.of = of

    def __hash__(self):
        return id(self.of) if self.of is not None else id(self)

    def __eq__(self, other):
        both = isinstance(other, Same) and self.of is other.of
        return both and (self.of is not None or self is other)


def key(closed: ClosedJaxpr, strict: bool = True) -> Hashable:
    """Of the program; the constants of the outermost jaxpr are data and no part of it.

    Not `strict`, what cannot be told of a Python function is left out.
    """
    return _Describer(strict).jaxpr(closed.jaxpr)


class _Describer:
    """One walk; Python functions on the way down are named by the order they are met in."""

    def __init__(self, strict: bool):
        self.strict = strict
        self.met: dict[int, tuple[int, Any]] = {}  # with the function, so that it stays alive

    def jaxpr(self, jaxpr: Jaxpr) -> Hashable:
        number: dict[Any, int] = {}

        def atom(x: Any) -> Hashable:
            if isinstance(x, Literal):
                return x.aval, _bits(x.val)
            return number.setdefault(x, len(number))

        def bound(variables: Iterable[Any]) -> Hashable:
            return tuple((number.setdefault(v, len(number)), v.aval) for v in variables)

        heads = bound(jaxpr.constvars), bound(jaxpr.invars)
        equations = []
        for e in jaxpr.eqns:
            read = tuple(atom(x) for x in e.invars)
            parameters = tuple(
                (name, self.value(x))
                for name, x in sorted(e.params.items())
                if name not in _DERIVED
            )
            equations.append((Same(e.primitive), read, bound(e.outvars), parameters, e.ctx))
        return heads, tuple(equations), tuple(atom(x) for x in jaxpr.outvars)

    def unknown(self) -> Hashable:
        return Same() if self.strict else None

    def value(self, x: Any) -> Hashable:
        if x is None or isinstance(x, bool | int | str | bytes):
            return type(x), x
        if isinstance(x, np.ndarray | np.generic | float | complex):
            return type(x), _bits(x)
        if isinstance(x, tuple | list):
            return type(x), tuple(self.value(y) for y in x)
        if isinstance(x, dict):
            return dict, tuple((self.value(k), self.value(y)) for k, y in x.items())
        if isinstance(x, ClosedJaxpr):
            return self.jaxpr(x.jaxpr), tuple(self.value(c) for c in x.consts)
        if isinstance(x, Jaxpr):
            return self.jaxpr(x)
        if isinstance(x, jax.Array | type | types.ModuleType):
            return Same(x)
        if isinstance(x, jax.sharding.Mesh):
            return type(x), x
        if type(x).__name__ == "WrappedFun":
            return self.value(x.f), self.value(x.transforms), self.value(x.params)
        if type(x).__name__ in _ASIDE:
            return (type(x),)
        if callable(x):
            return self.function(x)
        if _of_library(type(x).__module__) and _hashable(x):
            return type(x), x
        return self.unknown()

    def function(self, f: Any) -> Hashable:
        if id(f) in self.met:
            return "function", self.met[id(f)][0]
        self.met[id(f)] = len(self.met), f
        if isinstance(f, types.BuiltinFunctionType | np.ufunc):
            return Same(f)
        if isinstance(f, functools.partial):
            return functools.partial, self.value((f.func, f.args, f.keywords))
        if isinstance(f, types.MethodType):
            return types.MethodType, self.value((f.__func__, f.__self__))
        if isinstance(f, types.FunctionType):
            inner = tuple(self.value(cell.cell_contents) for cell in f.__closure__ or ())
            defaults = self.value((f.__defaults__, f.__kwdefaults__))
            return Same(f.__code__), inner, defaults, self._globals(f)
        wrapped = getattr(f, "__wrapped__", None)
        if _of_library(type(f).__module__) and callable(wrapped):
            rules = [getattr(f, name, None) for name in ("jvp", "fwd", "bwd", "nondiff_argnums")]
            return type(f), self.value(wrapped), self.value(rules)
        return self.unknown()

    def _globals(self, f: types.FunctionType) -> Hashable:
        """What the function reads from its module; a library's is taken to stay."""
        if _of_library(f.__module__):
            return ()
        read = []
        for name in sorted(set(_names(f.__code__)) & f.__globals__.keys()):
            x = f.__globals__[name]
            ours = isinstance(x, types.ModuleType) and not _of_library(x.__name__)
            read.append((name, self.unknown() if ours else self.value(x)))
        return tuple(read)


def _names(code: types.CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _bits(x: Any) -> Hashable:
    """A number or array by its bits: 0.0 is not −0.0, and NaN is NaN."""
    x = np.asarray(x)
    return x.dtype, x.shape, x.tobytes()


def _of_library(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    return root in _LIBRARIES or root in sys.stdlib_module_names


def _hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True
