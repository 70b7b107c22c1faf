"""What the numbers of a method must be."""

import math


def finite(value: float, what: str, *, low: float = -math.inf) -> float:
    """``value``; ValueError if it is not finite, or below ``low``."""
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{what} must be a finite number{f' >= {low:g}' * math.isfinite(low)}, not {value}.")
    return value


def positive(value: float, what: str) -> float:
    """``value``; ValueError if it is not finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be a finite number above 0, not {value}.")
    return value


def level(noise: float) -> float:
    """The standard deviation of measurement noise; ValueError if it is negative or not finite."""
    return finite(noise, "noise, the standard deviation of the measurement's,", low=0.0)


def share(eta: float, what: str = "eta") -> float:
    """A share of the noise; ValueError outside [0, 1]."""
    if not 0 <= eta <= 1:
        raise ValueError(f"{what} must lie in [0, 1], not {eta}.")
    return eta
