"""The little that depends on the Keras backend."""

from physml._backend.compiling import compiled, fixed_signature, fused, scan, traced
from physml._backend.derivatives import custom_gradient, gradients, implicit, jvp, slopes, value_and_gradient, vjp
from physml._backend.outside import filtered, outside, outside_linear, real_spectrum
from physml._backend.precision import concrete, eager, float64, is_not_finite, mean, spare_rows, widest_float
from physml._backend.stepping import training_step

__all__ = [
    "compiled",
    "concrete",
    "custom_gradient",
    "eager",
    "filtered",
    "fixed_signature",
    "float64",
    "fused",
    "gradients",
    "implicit",
    "is_not_finite",
    "jvp",
    "mean",
    "outside",
    "outside_linear",
    "real_spectrum",
    "scan",
    "slopes",
    "spare_rows",
    "traced",
    "training_step",
    "value_and_gradient",
    "vjp",
    "widest_float",
]
