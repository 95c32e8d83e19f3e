"""A run: what training fitted, in memory and as a folder. All that was fitted is here, nothing is computed from the batch at hand."""

from vibray.runs.folder import begin, load, save
from vibray.runs.run import Run

__all__ = ["Run", "begin", "load", "save"]
