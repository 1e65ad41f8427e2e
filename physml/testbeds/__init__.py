"""Numerical models with known answers: flows and dynamical systems to learn from and to be checked against."""
