"""Prompts that share a task: in-weight learning before, beside and against in-context learning."""
