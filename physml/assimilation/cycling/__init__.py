"""Cycles of time steps and analyses of labelled fields: preparing, running, storing, labelling."""
