"""Exact gradient flow of small models from tiny initialisations.

The public names are those of `__init__.pyi`, each imported when it is first used: the command
line answers without waiting for JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
