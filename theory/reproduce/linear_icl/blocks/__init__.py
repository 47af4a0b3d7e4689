"""Linear self-attention with all of its blocks: its limit, and blocks that stay zero."""
