"""Power spectra along one dimension: those of :mod:`physml.verify`, under the name used here."""

from physml.verify.spectra import power_spectrum as power_spectrum
