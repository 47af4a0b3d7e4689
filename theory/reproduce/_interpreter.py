"""A fresh Python that imports what this one does, and how it ended."""

import os
import signal
import sys
from collections.abc import Iterable


def interpreter(module: str, argument: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment that run a module of this package, with float64 on.

    The import path is that of this process and no more (-P): a `theory.py` in the working folder
    of somebody who typed `gflow` is not on it, and does not get there.
    """
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", f"{__package__}.{module}"]
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    ours = {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "JAX_ENABLE_X64": "1",
    }
    return [*command, argument], os.environ | ours


def ending(status: int, said: Iterable[str]) -> str:
    """What an exit status means; empty for success. A shell reports signal n as 128 + n."""
    if status == 0:
        return ""
    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        return f"Ended by {signal.Signals(number).name} ({signal.strsignal(number)})."
    last = next((line for line in reversed(list(said)) if line.strip()), "it said nothing")
    return f"Ended with exit status {status}: {last}"
