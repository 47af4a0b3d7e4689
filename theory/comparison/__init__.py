"""Prediction against simulation: claims, what a run shows of them, and verdicts."""
