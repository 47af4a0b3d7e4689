"""What papers predict about gradient flow, and its comparison with simulation.

The public names are those of `__init__.pyi`, each imported when it is first used.
"""

from typing import Any

import lazy_loader

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        # a folder of the user's may be called theory as well
        raise AttributeError(f"module 'theory' ({__file__}) has no attribute {name!r}")
    return _find(name)
