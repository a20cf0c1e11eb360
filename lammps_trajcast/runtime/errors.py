"""Errors of a prediction that users are told."""


class PredictorError(ValueError):
    """What was asked for is impossible with this model or machine; says what to do instead."""


class StepError(PredictorError):
    """A step failed on this rank."""
