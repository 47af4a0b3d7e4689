"""`python -m gflow` is the command `gflow`."""

import sys

from ._cli import main

sys.exit(main())
