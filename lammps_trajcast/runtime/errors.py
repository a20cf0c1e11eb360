"""Errors of a prediction that users are told."""


class PredictorError(ValueError):
    """What was asked for is impossible with this model or machine; says what to do instead."""


class StepError(PredictorError):
    """A step failed on this rank."""


NO_TF32 = (
    "precision tf32 is for a CUDA GPU and 'kernels fused'; this network runs elsewhere: "
    "write 'precision single'"
)
"""What is said in place of a step in TF32."""
