"""Published experiments with a known truth: one short file each, with the numbers to reach.

Every module has ``twin(seed, cycles, members)``, the constants of the experiment, and ``RMSE``: root mean square errors of
the analysis by method, the mean over the cycles after the first ``BURN_IN`` of the root of the mean square over the sites.

==================  =============  ==============================================================================
module              model          experiment
==================  =============  ==============================================================================
``sakov2008``       Lorenz 1996    all sites seen at each step of 0.05
``bocquet2013``     Lorenz 1996    the same, seen every 0.2
``sakov2012``       Lorenz 1963    all three components seen every 0.25
``brajard2020``     Lorenz 1996    half of the sites, drawn anew at each step; the model is to be learned
``mooc2023``        Lorenz 1996    a truth with a cubic term, half of the sites; the model's error is to be learned
==================  =============  ==============================================================================
"""

from physml.testbeds.setups import bocquet2013, brajard2020, mooc2023, sakov2008, sakov2012
from physml.testbeds.setups._twin import Twin

__all__ = ["Twin", "bocquet2013", "brajard2020", "mooc2023", "sakov2008", "sakov2012"]
