"""Whether an ensemble is as uncertain as it is wrong: the scores of :mod:`physml.verify`, under the names used here."""

from physml.verify.distributions import crps as crps
from physml.verify.ensembles import rank_histogram as rank_histogram
from physml.verify.ensembles import spread_skill as spread_skill
