"""Test beds: numerical models with known answers, made on the spot."""

from physml.testbeds import gyre, lorenz63, lorenz96, lorenz96_two_scale, separable, setups, sst

__all__ = ["gyre", "lorenz63", "lorenz96", "lorenz96_two_scale", "separable", "setups", "sst"]
