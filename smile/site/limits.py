"""Limits on the quality of a scan: a scan beyond one is set aside with the figure and the limit."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OFF = "off"


@dataclass(frozen=True)
class Limit:
    """What a figure of `geometry.Aligned.quality` may be."""

    least: bool  # True: it must not be below the limit; False: not above it, whatever its sign
    default: float | None  # None: no limit unless the user gives one
    unit: str = ""
    remedy: str = "scan again"
    most: float = math.inf  # the largest value that makes sense as a limit; the least is 0


# By the names of `face_quality.QUALITY`. Permissive: a profile, which shows half of a face, passes; what a person would not
# call a scan of a face does not. Poses are mended by the alignment, so they have no limit.
LIMITS = {
    "coverage": Limit(True, 0.4, most=1),
    "holes": Limit(False, 0.3, most=1),
    "noise": Limit(False, 3.0, " mm"),
    "fit": Limit(False, None, " mm"),
    "spacing": Limit(False, None, " mm"),
    "yaw": Limit(False, None, " degrees", "turn the head to the scanner"),
    "pitch": Limit(False, None, " degrees", "turn the head to the scanner"),
    "roll": Limit(False, None, " degrees", "turn the head to the scanner"),
}


def read_limits(words: Iterable[str]) -> dict[str, float]:
    """`["coverage=0.6", "noise=off"]` -> the limits of a run, defaults included. Raises ValueError for anything else."""
    limits = {name: limit.default for name, limit in LIMITS.items()}
    for word in words:
        name, _, text = word.partition("=")
        if name not in LIMITS:
            raise ValueError(
                f"--limit {word}: {name!r} is no figure of a scan: choose from {', '.join(LIMITS)}"
            )
        try:
            limits[name] = None if text == OFF else float(text)
        except ValueError:
            raise ValueError(
                f"--limit {word}: give a number or {OFF}, for example --limit {name}=0.6"
            ) from None
    return check_limits({name: value for name, value in limits.items() if value is not None})


def check_limits(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits themselves. Raises ValueError for one that no figure could ever be meant to keep."""
    for name, value in limits.items():
        if name not in LIMITS:
            raise ValueError(f"limit {name!r} is no figure of a scan: choose from {', '.join(LIMITS)}")
        most = LIMITS[name].most
        if not (math.isfinite(value) and 0 <= value <= most):
            right = "0 or more" if most == math.inf else f"0 to {most:g}"
            raise ValueError(f"--limit {name}={value:g}: give a number or {OFF}; the number is {right}")
    return dict(limits)


def broken(quality: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Why a scan with these figures is set aside, or None. A figure that is not there breaks no limit."""
    for name, limit in limits.items():
        rule, value = LIMITS[name], quality.get(name)
        if value is None or (value >= limit if rule.least else abs(value) <= limit):
            continue
        side, change = ("below", "lower") if rule.least else ("above", "raise")
        found, allowed = _figures(value, limit)
        return (
            f"{name} {found}{rule.unit} is {side} the limit {allowed}{rule.unit}: "
            f"{rule.remedy} or {change} --limit {name}"
        )
    return None


def worst(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The figures of a sample made of several scans: of each the one nearest to its limit, or beyond it."""
    merged: dict[str, float] = {}
    for quality in figures:
        for name, value in quality.items():
            least = name in LIMITS and LIMITS[name].least
            old = merged.setdefault(name, value)
            merged[name] = min(old, value) if least else max(old, value, key=abs)
    return merged


def _figures(*values: float) -> list[str]:
    """Figures as text, with the digits that it takes to tell them apart."""
    for more in range(5):
        texts = [f"{value:.{more + (2 if abs(value) < 10 else 0)}f}" for value in values]
        if len({text.lstrip("-") for text in texts}) == len(values):
            break
    return texts
