"""Strict JAX, two simulated devices, and every annotation of the packages checked.

This runs before the packages are imported: the import hook only sees what comes after it.
"""

import functools
import gc
import os

os.environ["MPLBACKEND"] = "Agg"
# matrices are small here, and threads of BLAS that wait for each other took half of some tests
os.environ.setdefault("OMP_NUM_THREADS", "1")
# XLA takes two of its own tuning flags in what it has cached for missing processor features
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import Annotated, Any, Self, get_args

import beartype
import jax
import jaxtyping
import pytest
from beartype.vale import Is
from jaxtyping import AbstractArray, PyTree, install_import_hook, jaxtyped

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# what has been compiled once, by the other worker or an earlier session, is read from disk
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_num_cpu_devices", 2)

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


jaxtyping.jaxtyped = checked  # which the hook writes above every function and class
install_import_hook(["gflow", "theory"], "conftest.beartyped")


def pytest_collection_finish():
    """Traces are many small objects: what is there to stay is not looked through for each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def room_for_compiled_functions():
    """Forget what was compiled before the process runs out of memory maps."""
    yield
    from gflow.programs._room import room

    room.make()
