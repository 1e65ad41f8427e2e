"""Test beds: numerical models with known answers, made on the spot."""

from physml.testbeds import gyre, lorenz96, sst

__all__ = ["gyre", "lorenz96", "sst"]
