"""Methods of assimilation on state vectors: Kalman, ensemble and variational, behind one interface."""
