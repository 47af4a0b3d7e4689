"""What `theory`, benchmarks and papers of other people may rely on, beside the public names.

The names are those of `internal.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("gflow", __file__)
