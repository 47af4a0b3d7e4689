"""How heads that feel one force share a mode."""
