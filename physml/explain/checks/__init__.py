"""What the checks of explanations are made of; they are called through :mod:`physml.explain.sanity`."""
