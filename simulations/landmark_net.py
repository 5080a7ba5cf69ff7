"""`python -m simulations.landmark_net`: fit the network of `smile.face_landmarks` on simulated faces, write its weights.

The faces are of one generator and must serve for real people and other scanners, so the pictures vary far more than any
face does: shapes are warped by smooth random fields, depth is tilted, stretched, roughened, smoothed and holed, the light is
anywhere, and half of the faces have no colour at all. Ten minutes on two cores; the same seed and version of
torch give the same weights.

Legend: n pictures, B pictures of a batch, N points, H W rows and columns of the whole picture.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from smile.face_landmarks import COLUMNS, FOUND, PITCH, RADIUS, ROWS, SIZE, STRIDE, WEIGHTS, channels, frontal
from smile.geometry import align
from smile.labels import EXPRESSIONS

from .face_fields import ACTION_NAMES
from .face_landmarks import BU83, landmark_vertices
from .faces import Face, Identity, face, perform, sample_identity
from .landmark_pictures import varied
from .raster import Window, rasterise
from .scanners import SCANNERS, _mix_corners, _rotation, _sample
from .scanners import scan as capture

# Rows of a BU .bnd.
LIDS = {"right_upper_lid": 2, "right_lower_lid": 6, "left_upper_lid": 10, "left_lower_lid": 14}
# The points in the order of a mirrored face.
SWAP = [FOUND.index(_other) for _other in (
    name.replace("left", "?").replace("right", "left").replace("?", "right") for name in FOUND
)]  # fmt: skip
WEIGHT_OF_HEAT = 0.05  # of the heat maps' cross-entropy beside the error in mm
BATCH = 32
# After the first fit: people, moments of each, batches. Half of each batch is scanned, for a scanner's grid tears at an open
# mouth or bridges it, which no other picture shows.
SCANNED = (100, 4, 350)

# depth (n, H, W), colour (n, H, W, 3), points (n, N, 2) column and row
Pictures = tuple[np.ndarray, np.ndarray, np.ndarray]


def pictures(people: range, *, each: int, seed: int, jobs: int, scanned: bool = False) -> Pictures:
    """`each` moments of each of `people` (numbers), seen from the front, as made or as `scanned`.

    Returns depth float16 mm, colour uint8, points float32 pixels.
    """
    parts = [people[start : start + 10] for start in range(0, len(people), 10)]
    work = partial(_some, each=each, seed=seed, scanned=scanned)
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(work, parts))
    else:
        done = list(map(work, parts))
    depth, colour, points = (np.concatenate(part) for part in zip(*done, strict=True))
    return depth, colour, points


def _some(numbers: range, *, each: int, seed: int, scanned: bool) -> Pictures:
    rows = [row for number in numbers for row in _person(number, each, seed, scanned)]
    depth, colour, points = (np.stack(part) for part in zip(*rows, strict=True))
    return depth, colour, points


def _person(
    number: int, each: int, seed: int, scanned: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng((seed, number))
    who = sample_identity(rng)
    wider = Identity(
        tuple(1.25 * amount for amount in who.shape),
        tuple(1.5 * amount for amount in who.asymmetry),
        who.expressiveness,
        tuple(2.0 * amount for amount in who.lopsidedness),
        who.paint,
        who.build,
    )
    for _ in range(each):
        moment = face(wider, _units(rng), gaze=tuple(np.clip(rng.normal(0, 0.8, 2), -1.5, 1.5).tolist()))
        yield _scanned(moment, rng) if scanned else _front(moment, rng)


def _units(rng: np.random.Generator) -> dict[str, float]:
    """Action units of an expression, weak or strong, or of any mixture: half of the faces show nothing with a name."""
    if rng.uniform() < 0.5:
        return perform(str(rng.choice(EXPRESSIONS)), rng, strength=float(rng.uniform(0.2, 1.15)))
    names = [name for name in ACTION_NAMES if name != "AU1+4"]
    chosen = rng.choice(names, size=int(rng.integers(1, 7)), replace=False)
    units = {str(name): float(rng.uniform(0.1, 1.0)) for name in chosen}
    if "AU27" in units and "AU26" in units:  # a jaw has one place
        del units["AU26"]
    return units


def _front(moment: Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture of a face whose nose tip is at the origin, turned by some degrees as an alignment may leave it."""
    # The mean face of `geometry.align` looks up some degrees more than these faces do.
    turn = _rotation(*np.radians(rng.normal([-5.0, 0.0, 0.0], [4.0, 3.5, 2.0])))
    vertices = (moment.vertices - moment.landmarks["nose_tip"]) @ turn.T + rng.normal(0, [1.0, 1.5, 1.5])
    window = Window(PITCH / 2 - RADIUS, RADIUS - PITCH / 2, PITCH, SIZE, SIZE)
    hits = rasterise(vertices, moment.faces, window)
    seen = hits.face >= 0
    colour = np.zeros((SIZE, SIZE, 3), np.uint8)
    colour[seen] = _sample(moment.texture, _mix_corners(moment.uv, moment.faces, hits, seen))
    x, y = np.meshgrid(window.x(), window.y())
    depth = np.where(x**2 + y**2 + hits.depth**2 < rng.uniform(84, 112) ** 2, hits.depth, np.nan)
    return depth.astype(np.float16), colour, _in_picture(vertices[_marks()])


def _scanned(moment: Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture of a face as a scanner, the export of its grid and `geometry.align` hand it on."""
    scanner = replace(
        SCANNERS[str(rng.choice(list(SCANNERS)))],
        pitch=float(rng.uniform(1.4, 3.2)),
        noise=float(rng.uniform(0.05, 0.6)),
        smoothing=int(rng.integers(0, 3)),
    )
    try:
        scan = align(capture(moment, scanner, rng), radius=RADIUS).scan
    except ValueError:  # more holes than face
        return _front(moment, rng)
    depth, colour = frontal(scan)
    assert colour is not None
    # The way of the whole face into the picture, by the landmarks that the scanner saw.
    names = list(scan.landmarks)
    before, after = (
        np.stack([marks[name] for name in names]) for marks in (moment.landmarks, scan.landmarks)
    )
    u, _, v = np.linalg.svd((before - before.mean(0)).T @ (after - after.mean(0)))
    points = (moment.vertices[_marks()] - before.mean(0)) @ (u @ v) + after.mean(0)
    return depth.astype(np.float16), colour, _in_picture(points)


def _marks() -> list[int]:
    marks = landmark_vertices()
    return [marks[BU83[LIDS[name]] if name in LIDS else name] for name in FOUND]


def _in_picture(points: np.ndarray) -> np.ndarray:
    """(N, 3) mm -> (N, 2) float32 column and row."""
    place = np.stack([points[:, 0] + RADIUS, RADIUS - points[:, 1]], axis=1) / PITCH - 0.5
    return place.astype(np.float32)


def _block(before: int, after: int, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def _folded(block: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that does what a block does in evaluation mode."""
    convolution, norm = block[0], block[1]
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return convolution.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain


class Net(nn.Module):
    """The network of `smile.face_landmarks.places`, with batch normalisation until `folded` takes it in."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = _block(5, 16, size=5, stride=2), _block(16, 32, stride=2)
        self.three, self.four = _block(32, 64, stride=2), _block(64, 80, stride=2)
        self.five, self.six = _block(80, 80), _block(80, 80)
        self.eight, self.nine = _block(32, 32), _block(32, 32)
        self.from_six, self.from_three, self.from_two = (nn.Conv2d(width, 32, 1) for width in (80, 64, 32))
        self.heat = nn.Conv2d(32, len(FOUND), 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, C, rows, columns) float32 -> heat maps (B, N, h, w), logarithms."""
        quarter = self.two(self.one(pictures))
        eighth = self.three(quarter)
        whole = self.six(self.five(self.four(eighth)))
        coarse = _twice(self.from_six(whole)) + self.from_three(eighth)
        return self.heat(self.nine(_twice(self.eight(coarse)) + self.from_two(quarter)))

    def folded(self, dtype: type = np.float16) -> dict[str, np.ndarray]:
        """The weights that `smile.face_landmarks` reads."""
        found: dict[str, np.ndarray] = {}
        for name, part in self.named_children():
            weight, bias = _folded(part) if isinstance(part, nn.Sequential) else (part.weight, part.bias)
            assert isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor)
            found[f"{name}.weight"] = weight.detach().numpy().astype(dtype)
            found[f"{name}.bias"] = bias.detach().numpy().astype(dtype)
        return found


def _twice(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def mean_place(heat: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) -> (B, N, 2) column and row in the whole picture, see `smile.face_landmarks`."""
    share = heat.flatten(2).softmax(2).view_as(heat)
    column = COLUMNS.start + STRIDE * torch.arange(heat.shape[3]) + (STRIDE - 1) / 2
    row = ROWS.start + STRIDE * torch.arange(heat.shape[2]) + (STRIDE - 1) / 2
    return torch.stack([share.sum(2) @ column, share.sum(3) @ row], 2)


def _loss(heat: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The mean error in mm, and a cross-entropy that keeps each heat map a hill of one cell's width."""
    error = functional.smooth_l1_loss(mean_place(heat) * PITCH, points * PITCH, beta=1.0)
    column = COLUMNS.start + STRIDE * torch.arange(heat.shape[3]) + (STRIDE - 1) / 2
    row = ROWS.start + STRIDE * torch.arange(heat.shape[2]) + (STRIDE - 1) / 2
    away = (column - points[..., :1]) ** 2  # (B, N, w)
    hill = (away[:, :, None] + ((row - points[..., 1:]) ** 2)[..., None]).flatten(2)
    target = (-hill / (2 * STRIDE**2)).softmax(2)
    return error - WEIGHT_OF_HEAT * (target * heat.flatten(2).log_softmax(2)).sum(2).mean()


def fit(net: Net, data: list[Pictures], *, steps: int, rate: float, seed: int) -> None:
    """Train for `steps` batches of varied pictures, as many from each set; the network ends in evaluation mode."""
    rng, running = np.random.default_rng(seed), 0.0
    optimiser = torch.optim.AdamW(net.train().parameters(), weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        drawn = [(part, rng.integers(len(part[0]), size=BATCH // len(data))) for part in data]
        depth, colour, points = (
            np.concatenate([part[layer][rows] for part, rows in drawn]) for layer in range(3)
        )
        seen, places = varied((depth, colour, points), rng, swap=SWAP)
        loss = _loss(net(torch.from_numpy(seen)), torch.from_numpy(places))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        plan.step()
        running = 0.98 * running + 0.02 * float(loss.detach())
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {running / (1 - 0.98 ** (step + 1)):.3f}", flush=True)
    net.eval()


def errors(net: Net, data: Pictures) -> np.ndarray:
    """(n, N) float64 mm between the points and where the network finds them in the pictures as they are."""
    depth, colour, points = data
    seen = np.stack([channels(d, c.mean(2, dtype=np.float32)) for d, c in zip(depth, colour, strict=True)])
    with torch.no_grad():
        found = torch.cat([mean_place(net(part)) for part in torch.from_numpy(seen).split(64)]).numpy()
    return PITCH * np.linalg.norm(found - points, axis=2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulations.landmark_net", description=__doc__)
    parser.add_argument("--people", type=int, default=360, metavar="N", help="people who do not exist")
    parser.add_argument("--each", type=int, default=5, metavar="N", help="moments of each")
    parser.add_argument("--steps", type=int, default=1100, metavar="N", help=f"batches of {BATCH} pictures")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes that draw the faces")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, default=WEIGHTS, metavar="NPZ")
    options = parser.parse_args(arguments)
    if options.people < 1 or options.each < 1 or options.steps < 20 or options.jobs < 1:
        parser.error("give --people, --each and --jobs from 1 and --steps from 20")
    torch.set_num_threads(1)  # sums have one order: the same seed gives the same weights
    torch.manual_seed(options.seed)
    draw, net = partial(pictures, seed=options.seed, jobs=options.jobs), Net()
    plain = draw(range(options.people), each=options.each)
    fit(net, [plain], steps=options.steps, rate=4e-3, seed=options.seed)
    people, each, steps = SCANNED
    scanned = draw(range(options.people, options.people + people), each=each, scanned=True)
    fit(net, [plain, scanned], steps=steps, rate=1.5e-3, seed=options.seed + 1)
    unseen = errors(net, draw(range(10**6, 10**6 + 20), each=4, scanned=True)).mean(0)
    for name, error in zip(FOUND, unseen, strict=True):
        print(f"{name:24}{error:6.2f} mm")
    print(f"{'mean':24}{unseen.mean():6.2f} mm on 20 people who were not seen")
    np.savez_compressed(options.out, allow_pickle=False, **net.folded())
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
