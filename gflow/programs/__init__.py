"""Functions of the user as compiled programs: never stale, and never more than fit."""
