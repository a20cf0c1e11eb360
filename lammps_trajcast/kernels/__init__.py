"""Fused kernels: the compiled twin of the network's plain path."""
