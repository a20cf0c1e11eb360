"""The kernels in Triton, for CUDA devices: the GPU twins of the compiled CPU kernels."""
