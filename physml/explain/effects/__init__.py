"""How the skill or the output of a model follows its inputs: permutation importance, dependence, local effects."""
