"""Whether an assimilation is as good as it claims, and how predictable a system is."""
