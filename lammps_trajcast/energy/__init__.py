"""The potential energy of a model: a linear atomic cluster expansion, fitted by regression."""
