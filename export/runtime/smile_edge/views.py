"""What the model is fed: prepared views from .npy files, or a raw scan through `reader/`.

n frames, V views, C channels, H W pixels.
"""

import hashlib
import importlib.util
import json
import platform
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .files import first_line, read_checked, read_sums


def read_views(path: Path, bundle: Path, spec: dict[str, Any]) -> tuple[np.ndarray, dict[str, float]]:
    """One input -> views (n, V, C, H, W) as the model takes them, and the milliseconds for `read` and `views`.

    spec: `preprocessing` of the manifest. Raises ValueError, one sentence, for anything that cannot be used.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}: give a file, prepared views as .npy "
            "or a raw scan"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: copy it again")
    start = time.perf_counter()
    if path.suffix.lower() == ".npy":
        views = _read_npy(path)
        read = time.perf_counter()
        views = check_views(views, spec, str(path), modalities=_site_modalities(path, spec))
    else:
        _refuse_single_scan(path, spec)
        modules = scan_modules(bundle)
        start = time.perf_counter()  # importing the packages is no part of reading a scan
        scan = attempt(
            path, lambda: modules["scans"].read_file(path, need_texture="texture" in spec["modalities"])
        )
        read = time.perf_counter()
        views = scan_views(path, scan, modules, spec)
    return views, {"read": 1e3 * (read - start), "views": 1e3 * (time.perf_counter() - read)}


def check_views(
    views: np.ndarray, spec: dict[str, Any], name: str = "views", *, modalities: tuple[str, ...] | None = None
) -> np.ndarray:
    """(V, C, H, W) or (n, V, C, H, W) -> (n, V, C', H, W) with the channels that the model sees.

    C is the model's number of channels, or all those of a site that was prepared with `spec["stored"]`.
    modalities: of the channels, where they are known; without it their number decides. A view that is 0 throughout is
    missing, and a frame may lack some but not all. Raises ValueError.
    """
    expected = (len(spec["yaws"]), len(spec["channels"]), spec["size"], spec["size"])
    wanted = f"({', '.join(map(str, expected))}) or (frames, {', '.join(map(str, expected))})"
    if views.dtype != np.uint8 and views.dtype.kind != "f":
        raise ValueError(f"{name} holds {views.dtype}: give uint8, 0 to 255, as `smile prepare` writes them")
    shape = views.shape
    if views.ndim == 4:
        views = views[None]
    given = {m: spec["all_channels"][m] for m in (modalities or spec["stored"])}
    if (
        views.ndim == 5
        and views.shape[2] == sum(given.values())
        and (modalities or views.shape[2] != expected[1])
    ):
        views = views[:, :, _select(given, spec["modalities"])]
    if views.ndim != 5 or views.shape[1:] != expected or len(views) == 0:
        raise ValueError(
            f"{name} has shape {shape}: give {wanted}, the views that the bundle's manifest.json describes"
        )
    if views.dtype.kind == "f":
        _check_values(views, name)
    frame = np.flatnonzero(~views.any(axis=(1, 2, 3, 4)))
    if len(frame):
        raise ValueError(f"{name}: every view is empty in frame {frame[0]}: is a face in it?")
    return views


def _check_values(views: np.ndarray, name: str) -> None:
    if not np.isfinite(views).all():
        raise ValueError(f"{name} holds NaN or infinite values: give 0 to 255, with 0 for the background")
    if views.min() < 0 or views.max() > 255 or views.max() <= 1:
        raise ValueError(
            f"{name} holds values from {views.min():g} to {views.max():g}: give 0 to 255, as `smile prepare` "
            "writes them"
        )


def _select(given: dict[str, int], wanted: list[str]) -> list[int]:
    """Channel numbers of the wanted modalities among the given ones, {modality: channels} in storage order."""
    numbers: list[int] = []
    start = 0
    for modality, count in given.items():
        if modality in wanted:
            numbers += range(start, start + count)
        start += count
    return numbers


def _read_npy(path: Path) -> np.ndarray:
    """Prepared views, memory-mapped. An .npy with Python objects in it is pickle, and is refused."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise ValueError(f"{path} is not an .npy file: write the views with numpy.save")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged header raises nearly anything, and numpy's advice is to trust the file
        raise ValueError(
            f"{path} is cut short, damaged or holds Python objects: write the views again"
        ) from None


def _site_modalities(path: Path, spec: dict[str, Any]) -> tuple[str, ...] | None:
    """What a shard of a prepared site holds, from the manifest of its site; None for any other .npy.

    Raises ValueError when the site was prepared with other view settings: the shapes alone would not tell.
    """
    try:
        views = json.loads((path.parent.parent / "manifest.json").read_text(encoding="utf-8"))["views"]
        views = {"motion": "frames", "magnify": 1.0, **views}
        found = {key: views[key] for key in ("yaws", "size", "radius", "motion", "magnify")}
        modalities = tuple(m for m in spec["all_channels"] if m in views["modalities"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wrong = [f"{key} = {value}" for key, value in found.items() if value != spec[key]]
    if wrong:
        raise ValueError(
            f"{path} was prepared with {', '.join(wrong)} and this bundle wants "
            f"{', '.join(str(spec[w.split(' ')[0]]) for w in wrong)}: prepare it again"
        )
    missing = [m for m in spec["modalities"] if m not in modalities]
    if missing:
        raise ValueError(
            f"{path} was prepared without {', '.join(missing)}: prepare it again with --modalities "
            f"{','.join(m for m in spec['all_channels'] if m in (*modalities, *missing))}"
        )
    return modalities


def _refuse_single_scan(path: Path, spec: dict[str, Any]) -> None:
    """Raises ValueError when the model looks at motion, which no single scan shows."""
    motion, magnify = spec["motion"], spec["magnify"]
    if motion != "frames" or magnify != 1:
        seen = {"frames": f"frames with their motion magnified {magnify:g} times"}.get(
            motion, f"{motion} pictures of a sequence"
        )
        raise ValueError(
            f"{path} is a single scan and this bundle reads {seen}: prepare the sequence with `smile prepare --motion "
            f"{motion} --magnify {magnify:g}` and give its views as .npy"
        )


def reader_module(bundle: Path, name: str) -> ModuleType:
    """`reader.NAME` of this bundle. Raises ValueError where this Python cannot load it."""
    try:
        return importlib.import_module(f"{_load_reader(bundle).__name__}.{name}")
    except (ImportError, re.error, SyntaxError) as error:
        raise ValueError(
            f"Python {platform.python_version()} cannot load {bundle / 'reader' / name} ({first_line(error)}): use "
            "Python 3.11 or later, or give prepared views as .npy"
        ) from None


def _load_reader(bundle: Path) -> ModuleType:
    """The package `reader/` of this bundle, after every file of it has been checked."""
    name = (
        "smile_edge_reader_" + hashlib.sha256(bytes(bundle.resolve())).hexdigest()[:8]
    )  # two bundles in one program stay apart
    if name in sys.modules:
        return sys.modules[name]
    sums = read_sums(bundle)
    files = [file for file in sums if file.startswith("reader/")]
    if not files:
        raise ValueError(f"{bundle} has no reader/: it reads prepared views only")
    for file in files:
        read_checked(bundle, file, sums)
    spec = importlib.util.spec_from_file_location(
        name, bundle / "reader" / "__init__.py", submodule_search_locations=[str(bundle / "reader")]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def scan_modules(bundle: Path) -> dict[str, ModuleType]:
    """The modules of `reader/` that make views of a scan; from here on this process keeps its heap."""
    reader_module(bundle, "heap").keep_freed()
    return {name: reader_module(bundle, name) for name in ("config", "scans", "geometry", "views")}


def scan_views(path: Path, scan: Any, modules: dict[str, ModuleType], spec: dict[str, Any]) -> np.ndarray:
    """A scan that was read from `path` -> (1, V, C, H, W) uint8. Raises ValueError when there is no face in it."""
    views = check_views(attempt(path, lambda: _render(scan, modules, spec)), spec, str(path))
    # As in `smile prepare`: a scan has all views, only photographs lack some.
    for yaw, view in zip(spec["yaws"], views[0], strict=True):
        if not view.any():
            raise ValueError(f"{path}: the view at {yaw:g} degrees is empty: is it a scan of a face?")
    return views


def _render(scan: Any, modules: dict[str, ModuleType], spec: dict[str, Any]) -> np.ndarray:
    """Raw scan -> (V, C, H, W) uint8, exactly as `smile prepare` makes them."""
    settings = modules["config"].ViewConfig(
        yaws=tuple(spec["yaws"]),
        size=spec["size"],
        radius=spec["radius"],
        modalities=tuple(spec["modalities"]),
    )
    aligned = modules["geometry"].align(scan, radius=settings.radius).scan
    return modules["views"].encode(modules["views"].render(aligned, settings), settings)


def attempt(path: Path, work: Any) -> Any:
    """Run `work`; whatever a damaged scan makes a parser raise becomes one sentence."""
    try:
        return work()
    except ValueError as error:
        sentence = first_line(error)
        raise ValueError(sentence if path.name in sentence else f"{path}: {sentence}") from None
    except ImportError as error:
        module = (error.name or "a package").split(".")[0]
        package = {"PIL": "pillow"}.get(module, module)
        raise ValueError(
            f"{path}: reading this file needs {package} ({first_line(error)}): run `python3 -m pip install {package}`, or "
            "give prepared views as .npy"
        ) from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a scan ({first_line(error)}): export it again") from None
