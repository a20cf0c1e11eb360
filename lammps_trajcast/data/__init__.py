"""Data sets: from trajectories of ordinary molecular dynamics to pairs of states."""
