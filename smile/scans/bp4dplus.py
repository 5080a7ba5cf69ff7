"""BP4D+ (Zhang et al., CVPR 2016): the tree of BP4D with 140 subjects, ten tasks and another table of tasks.

Layout: <https://www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html> and public loaders, `bp4d.py` reads it.
The table is the one of the paper, a single source but for pain; *startle* and *skeptical* are no word of ours, so
their sequences have no label unless a mapping gives `t4` or `t5` one.
"""

from pathlib import Path

from . import bp4d
from .scan import Listing, Options

LAYOUT = "F001/T1/000.obj (BP4D+, 3D release, T1 to T10)"
TASKS = {
    "T1": "happiness",
    "T2": "surprise",
    "T3": "sadness",
    "T4": None,  # startle
    "T5": None,  # skeptical
    "T6": "embarrassment",
    "T7": "fear",
    "T8": "pain",
    "T9": "anger",
    "T10": "disgust",
}


def matches(folder: Path) -> bool:
    """Whether some task folder holds a mesh, and nothing says BP4D alone: where nothing says either, the person must choose."""
    ours, plus = bp4d.evidence(folder)
    return bp4d.has_meshes(folder) and not (ours and not plus)


def listing(folder: Path, options: Options) -> Listing:
    """One sequence for each task of each subject, with the action units of each frame."""
    return bp4d.list_tasks(folder, options, "bp4dplus", f"BP4D+ layout ({LAYOUT})", TASKS)
