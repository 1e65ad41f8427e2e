"""Localisation: the correlation function that is zero beyond a distance."""

from __future__ import annotations

from typing import Any

from keras import ops

from physml._errors import refuse


def gaspari_cohn(distance: Any, half_width: float) -> Any:
    """Return the fifth-order piecewise rational correlation, close to a Gaussian, which is zero from twice *half_width* on.

    With z = distance / half_width, equation 4.10 of the paper:

        1 - 5/3 z^2 + 5/8 z^3 + 1/2 z^4 - 1/4 z^5                          for z <= 1,
        (2 - z)^4 (z^2 + 2 z - 1/2) / (12 z)                               for 1 <= z <= 2, factored,
        0                                                                  beyond.

    Two continuous derivatives; positive definite in up to three dimensions, so also of the chord on the sphere. The Gaussian
    exp(-distance^2 / 2 L^2) of the same curvature at zero has L = half_width sqrt(3/10).

    Parameters
    ----------
    distance
        Not negative, any shape, in the unit of *half_width*.
    half_width
        c of the paper, half the distance from which it is zero.

    Raises
    ------
    ValueError
        For a half-width that is not positive.

    References
    ----------
    Gaspari, G. and Cohn, S. E. (1999), Construction of correlation functions in two and three dimensions,
    doi:10.1002/qj.49712555417.

    Examples
    --------
    >>> [round(float(gaspari_cohn(d, 500.0)), 6) for d in (0.0, 500.0, 1000.0)]
    [1.0, 0.208333, 0.0]
    """
    if not half_width > 0:
        refuse(
            "gaspari_cohn: half_width is not positive", "> 0", half_width, "pass half the distance of the last effect"
        )
    z = ops.convert_to_tensor(distance) / half_width
    near, far = ops.minimum(z, 1.0), ops.clip(z, 1.0, 2.0)
    inner = 1 + ops.square(near) * (-5 / 3 + near * (5 / 8 + near * (1 / 2 - near / 4)))
    outer = ops.square(ops.square(2 - far)) * (far * (far + 2) - 0.5) / (12 * far)
    return ops.where(z <= 1.0, inner, outer)
