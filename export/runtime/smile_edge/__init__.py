"""The runtime of a bundle: no torch, no network, no pickle."""

from .command import main
from .model import ExpressionReader

__all__ = ["ExpressionReader", "main"]
