"""Inputs themselves: the one a model answers to most, and those unlike any it was trained on."""
