"""Numbers by which e3nn normalizes functions; the kernels are made with them, without e3nn."""

GAINS = {
    "silu": 1.6791767923989418,
    "tanh": 1.5937334472592695,
    "relu": 1.4163393446331365,
    "sigmoid": 1.8467055342154763,
}
"""Activation functions are multiplied by these, one over the root of their second moment under the
normal distribution. e3nn integrates it over a million random numbers, always the same ones: these
are its results to the last digit. The exact integrals differ from them in the fourth digit."""

GAUSSIAN_NORM = 1.12
"""The Gaussian basis of e3nn's soft_one_hot_linspace is divided by this, so that the squares of the
basis functions sum to about one."""
