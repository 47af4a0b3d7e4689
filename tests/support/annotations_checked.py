"""Annotations checked where a function is called: what the import hook puts on the packages."""

import functools
from typing import Annotated, Any, Self, get_args

import beartype
from beartype.vale import Is
from jaxtyping import AbstractArray, PyTree, jaxtyped

# The hook decorates one method at a time, where beartype cannot know what Self is.
anything = Annotated[object, Is[lambda _: True]]
beartyped = beartype.beartype(
    conf=beartype.BeartypeConf(
        hint_overrides=beartype.FrozenDict({Self: anything}),
        is_pep484_tower=True,  # an int is a float, as type checkers have it
    )
)


def has_shapes(hint) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    inner = hint if isinstance(hint, list) else get_args(hint)
    return isinstance(hint, str) or hint is PyTree or any(map(has_shapes, inner))


def checked(function=None, *, typechecker=None):
    """What `jaxtyping.jaxtyped` does, at a fifth of its price for what is called often.

    The same annotations are checked, with one meaning of "n" for all arguments and the result, but
    each once and where the function is called, and none is bound by name to tell which it was.
    """
    if function is None:
        return functools.partial(checked, typechecker=typechecker)
    if isinstance(function, type):
        return jaxtyped(function, typechecker=beartyped)
    for name, hint in function.__annotations__.items():
        if isinstance(hint, str) and "." in hint:  # of a module that type checkers alone import
            function.__annotations__[name] = Any
    inner = beartyped(function)
    if not any(map(has_shapes, function.__annotations__.values())):
        return inner

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with jaxtyped("context"):
            return inner(*args, **kwargs)

    return wrapped
