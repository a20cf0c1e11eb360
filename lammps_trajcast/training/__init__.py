"""Training of a TrajCast network on pairs of states."""
