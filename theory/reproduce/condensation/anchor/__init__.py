"""The anchor function learnt with AdamW: the Figs. 1 and 2 of the paper."""
