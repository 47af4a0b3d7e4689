"""Standard error that is a terminal, or a notebook's."""

import io
import sys


class Terminal(io.StringIO):
    def isatty(self):
        return True


Cell = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})

#: What standard error may be, and whether a bar is seen there.
PLACES = ((Terminal, True), (Cell, True), (io.StringIO, False))


def standard_error(monkeypatch, kind=Terminal):
    """Standard error of this kind from here on."""
    said = kind()
    monkeypatch.setattr(sys, "stderr", said)
    return said
