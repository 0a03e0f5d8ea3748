"""What can be wrong with a model, its samples or the way to the bundle; every one the caller can mend."""

from hyle_errors import CallerError

__all__ = ["CalibrationError", "ModelError", "OptionError", "OutputError", "PlacementError", "VerificationError"]


class ModelError(CallerError):
    """The model cannot be read, or is not one that can be compiled."""


class CalibrationError(CallerError):
    """The calibration or evaluation samples do not fit the model."""


class PlacementError(CallerError):
    """The model does not fit the substrate."""


class OptionError(CallerError):
    """An option with a value that cannot be."""


class OutputError(CallerError):
    """The bundle cannot be written where it was asked for."""


class VerificationError(CallerError):
    """The compiled model does not do what the float model does, for a reason that the target explains."""
