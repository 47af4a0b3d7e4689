"""Modes of several scales that share an eigenbasis."""
