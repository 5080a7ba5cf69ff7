"""A picture to look at before training: random samples of a prepared site, a row for each label that occurs."""

from pathlib import Path

import numpy as np

from ..labels import VOCABULARY
from .disk import write_atomic
from .store import Site

VIEW = 96  # pixels of a view on the sheet, at least
MARGIN, CAPTION, TITLE, LABEL = 8, 16, 46, 120  # pixels
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)


def contact_sheet(site: Site, path: Path, *, columns: int = 4, seed: int = 0) -> None:
    """Write the sheet to `path` as PNG: rows = labels and the unlabelled, columns = `columns` samples drawn with `seed`.

    A sample shows its views in the order of the yaws: texture where there is one, else depth, else normals.
    Captions carry pseudonyms only; the faces are the patients' own, so the sheet is as private as the site.
    """
    from PIL import Image, ImageDraw, ImageFont

    labels = [label for label in (*VOCABULARY, "") if (site.labels == label).any()]
    rng = np.random.default_rng(seed)
    columns = min(columns, max(int((site.labels == label).sum()) for label in labels))
    scale = -(-VIEW // site.views.size)
    side = scale * site.views.size
    width, height = side * len(site.views.yaws) + MARGIN, side + CAPTION + MARGIN
    sheet = Image.new("RGB", (LABEL + columns * width + MARGIN, TITLE + len(labels) * height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(11)
    draw.text((MARGIN, MARGIN), _title(site), fill=INK, font=large)
    draw.text((MARGIN, MARGIN + 19), _subtitle(site), fill=FAINT, font=small)
    for line, label in enumerate(labels):
        top = TITLE + line * height
        chosen = _draw_samples(site, label, columns, rng)
        draw.text((MARGIN, top + side // 2), label or "unlabelled", fill=INK, font=large)
        for column, (row, views) in enumerate(zip(chosen, site.gather(chosen), strict=True)):
            left = LABEL + column * width
            for view, picture in enumerate(pictures(site, views)):
                tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(tile, (left + view * side, top))
            caption = f"{site.subjects[row]}, sequence {site.sequences[row]}, frame {site.frames[row]}"
            draw.text((left, top + side + 1), caption, fill=FAINT, font=small)
    write_atomic(path, lambda file: sheet.save(file, format="PNG"))


def pictures(site: Site, views: np.ndarray) -> np.ndarray:
    """Views of one sample (V, C, H, W) uint8 -> pictures to look at (V, H, W, 3) uint8."""
    slices = site.views.channel_slices()
    if "texture" in slices and views[:, slices["texture"]].any():
        chosen = views[:, slices["texture"]]
    elif "depth" in slices:
        chosen = np.repeat(_stretch(views[:, slices["depth"]]), 3, axis=1)
    else:
        chosen = views[:, slices["normals"]] if "normals" in slices else views
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1))


def _stretch(depth: np.ndarray) -> np.ndarray:
    """Depth (V, 1, H, W) with the face's own range spread over 40..255; nothing stays 0."""
    inside = depth > 0
    if not inside.any():
        return depth
    low, high = int(depth[inside].min()), int(depth[inside].max())
    spread = 40 + (depth.astype(np.float32) - low) * (215 / max(1, high - low))
    return np.where(inside, spread, 0).astype(np.uint8)


def _draw_samples(site: Site, label: str, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `columns` rows with this label, of as many subjects as possible."""
    rows = rng.permutation(np.flatnonzero(site.labels == label))
    seen: dict[str, int] = {}
    turn = []
    for row in rows:
        turn.append(seen.setdefault(site.subjects[row], 0))
        seen[site.subjects[row]] += 1
    return rows[np.argsort(turn, kind="stable")][:columns]


def _title(site: Site) -> str:
    counts = site.manifest["counts"]
    return (
        f"{site.manifest['dataset']}: {counts['samples']} scans, {counts['subjects']} subjects, "
        f"{counts['sequences']} sequences, {counts['rejected']} rejected"
    )


def _subtitle(site: Site) -> str:
    yaws = ", ".join(f"{yaw:g}" for yaw in site.views.yaws)
    motion = "" if site.views.motion == "frames" else f"motion as {site.views.motion}, "
    return (
        f"views at {yaws} degrees, {site.views.size} px, {' + '.join(site.views.modalities)}, {motion}"
        f"radius {site.views.radius:g} mm, {site.manifest['renderer']}. Shows faces: keep it with the site."
    )
