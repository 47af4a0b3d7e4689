"""Two linear layers on one-hot inputs: exact logits, modes and collapse."""
