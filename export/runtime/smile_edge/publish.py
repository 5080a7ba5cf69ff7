"""A finished folder gets its name: on the disk first, and then in one step where the system can."""

import ctypes
import os
from pathlib import Path

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


def sync(folder: Path) -> None:
    """On the disk before it gets the name: a power cut leaves the old bundle or a whole new one."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_file() or os.name != "nt":  # folders cannot be opened there
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step, so that at no moment there is none; False where Linux cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # another system, or a C library before 2018
        return False
    here = -100  # AT_FDCWD, which absolute paths do not need
    return rename(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0
