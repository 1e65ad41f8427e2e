"""Test beds: numerical models with known answers, made on the spot."""

from physml.testbeds import gyre, sst

__all__ = ["gyre", "sst"]
