"""Who plays: named groups of inputs, and the baselines that stand in for them."""
