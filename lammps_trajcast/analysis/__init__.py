"""Judging a run: structure, temperature, momentum, speed."""
