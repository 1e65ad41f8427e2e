"""Runs: a demonstration, and the training and prediction that a YAML file describes."""
