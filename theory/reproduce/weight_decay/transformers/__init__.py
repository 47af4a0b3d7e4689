"""Transformers under decay, that recall and that read: trained in stacks, ranks by λ."""
