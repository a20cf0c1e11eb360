"""Equipartition in runs of a model, by small changes of its last layer."""
