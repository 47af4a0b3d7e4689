"""Random logits of any scale: to how many tokens attention attends."""
