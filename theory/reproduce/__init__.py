"""Experiments of papers: what a paper of one's own is made of, and the papers that are shipped.

A paper is a file or a folder with an `experiment`; `gflow reproduce` runs it in a process of its
own. The public names are those of `__init__.pyi`, each imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
