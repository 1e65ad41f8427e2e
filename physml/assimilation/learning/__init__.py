"""Learning through assimilation: alternately, and end to end."""
