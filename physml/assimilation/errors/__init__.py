"""Error covariances: what a user says of errors, and their products with a state vector."""
