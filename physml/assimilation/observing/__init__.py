"""Observations of every kind, and how a state vector is seen by them."""
