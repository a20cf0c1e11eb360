"""The TrajCast network: architecture, layers, model files and the import of checkpoints."""
