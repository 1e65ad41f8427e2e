"""How much each group contributes: Shapley and Owen values, interactions, for models of any kind and for trees."""
