"""What the objective costs beside the tower, and beside other libraries' losses: `python -m tests.benchmarks.objective_cost`.

1. Forward and backward of the whole objective as a share of a training step (tower, objective, AdamW) with random weights.
2. The same terms built from lightly's BarlowTwinsLoss (each pair of views) and open_clip's ClipLoss (fused and each view), in turn in
   the same run: time and the most memory above the inputs. Theirs has no redundancy and one positive a sample; ours is shown
   with the same two terms and with everything. What is not installed is left out with a sentence.
3. On a GPU: images a second in bf16 against the same tower with open_clip's ClipLoss alone, and the share of --peak.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import combinations

import torch
import torch.nn.functional as F

from smile.config import ModelConfig, ObjectiveConfig, SmileConfig, ViewConfig
from smile.losses import Targets, alignment, decorrelation, objective
from smile.model import Encoding, SmileModel, build_model

SCALE, DIM, CLASSES = 14.0, 512, 7
Term = Callable[[torch.Tensor, torch.Tensor, Targets], torch.Tensor]  # views, fused, targets -> loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--towers", nargs="*", default=["ViT-B-32"], help="default ViT-B-32; none: losses alone"
    )
    parser.add_argument("--batch", type=int, default=64, help="captures (default 64)")
    parser.add_argument("--views", type=int, default=3, help="views of a capture (default 3)")
    parser.add_argument("--repeats", type=int, default=100, help="of each set of losses (default 100)")
    parser.add_argument(
        "--steps", type=int, default=1, help="training steps on a processor (default 1; a GPU: 20)"
    )
    parser.add_argument(
        "--chunk", type=int, default=16, help="captures in the tower at once on a processor (default 16)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--peak", type=float, default=989, help="TFLOP/s of the GPU in bf16 (default 989, H100)"
    )
    chosen = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    torch.manual_seed(0)
    seconds = compare(chosen.batch, chosen.views, chosen.repeats, chosen.device)
    for tower in chosen.towers:
        if chosen.device == "cpu":
            share(tower, seconds, chosen.batch, chosen.views, chosen.chunk, chosen.steps)
        else:
            throughput(tower, seconds, chosen.batch, chosen.views, chosen.peak, chosen.device)


def compare(batch: int, views: int, repeats: int, device: str) -> float:
    """Print the table of losses; returns the median seconds of the whole objective."""
    z = torch.randn(batch, views, DIM, device=device)
    given = targets(batch, device)
    contestants: dict[str, Term] = {"ours, all three losses": everything, "ours, the same two": same_terms}
    try:
        contestants["lightly + open_clip"] = libraries()
    except ImportError as error:
        print(f"lightly + open_clip: left out, {error.name} is not installed")
    for run in contestants.values():
        spent(run, z, given)  # warm
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(spent(run, z, given))
    peaks = {name: peak(run, z, given) for name, run in contestants.items()}
    print(
        f"\nforward + backward, batch {batch}, {views} views, {DIM} features, {device}, {torch.get_num_threads()} threads"
    )
    print(f"{'':26}{'median ms':>10}{'least ms':>10}{'peak MiB':>10}")
    for name in contestants:
        milliseconds = [1000 * x for x in times[name]]
        print(f"{name:26}{statistics.median(milliseconds):10.2f}{min(milliseconds):10.2f}{peaks[name]:10.2f}")
    return statistics.median(times["ours, all three losses"])


def targets(batch: int, device: str) -> Targets:
    rows = torch.arange(batch, device=device)
    text = F.normalize(torch.randn(batch, DIM, device=device), dim=1)
    expressions = F.normalize(torch.randn(CLASSES, DIM, device=device), dim=1)
    return Targets(text, rows % CLASSES, rows, rows, rows / batch, expressions=expressions)


def everything(z: torch.Tensor, fused: torch.Tensor, given: Targets) -> torch.Tensor:
    scale = torch.tensor(SCALE, device=z.device)
    return objective(Encoding(views=z, fused=fused, features=fused), given, scale, ObjectiveConfig())[0]


def same_terms(z: torch.Tensor, fused: torch.Tensor, given: Targets) -> torch.Tensor:
    scale = torch.tensor(SCALE, device=z.device)
    each, _ = alignment(torch.cat([fused.unsqueeze(1), z], dim=1), given.text, given.classes, scale)
    return decorrelation(z, off_diagonal=0.0051) / DIM + each[0] + each[1:].mean()


def libraries() -> Term:
    from lightly.loss import BarlowTwinsLoss
    from open_clip.loss import ClipLoss

    barlow, clip = BarlowTwinsLoss(lambda_param=0.0051), ClipLoss(cache_labels=True)

    def terms(z: torch.Tensor, fused: torch.Tensor, given: Targets) -> torch.Tensor:
        views = z.unbind(1)
        pairs = [barlow(a, b) for a, b in combinations(views, 2)]
        each = [clip(F.normalize(v, dim=1), given.text, SCALE) for v in views]
        return (
            sum(pairs) / len(pairs) / DIM
            + clip(F.normalize(fused, dim=1), given.text, SCALE)
            + sum(each) / len(each)
        )

    return terms


def spent(run: Term, z: torch.Tensor, given: Targets) -> float:
    """Seconds of a forward and a backward."""
    leaves = [x.detach().clone().requires_grad_() for x in (z, z.mean(1))]
    wait(z.device)
    start = time.perf_counter()
    run(leaves[0], leaves[1], given).backward()
    wait(z.device)
    return time.perf_counter() - start


def peak(run: Term, z: torch.Tensor, given: Targets) -> float:
    """MiB above what was there before, at the worst moment of a forward and a backward."""
    if z.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(z.device)
        before = torch.cuda.memory_allocated(z.device)
        spent(run, z, given)
        return (torch.cuda.max_memory_allocated(z.device) - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        spent(run, z, given)
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def build(tower: str, views: int, device: str) -> tuple[SmileModel, torch.optim.Optimizer]:
    yaws = tuple(float(10 * v) for v in range(views))
    config = SmileConfig(
        views=ViewConfig(size=224, modalities=("texture",), yaws=yaws),
        model=ModelConfig(tower=tower, modalities=("texture",), dim=DIM),
    )
    model = build_model(config).to(device)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5)


def share(tower: str, seconds: float, batch: int, views: int, chunk: int, steps: int) -> None:
    """On a processor: the tower takes the batch in chunks, for memory; the objective's own time is added."""
    model, optimiser = build(tower, views, "cpu")
    pictures, times = 255 * torch.rand(chunk, views, 3, 224, 224), []
    for _ in range(steps):
        start = time.perf_counter()
        for first in range(0, batch, chunk):
            found = model(pictures[: batch - first])
            torch.autograd.backward([found.views, found.fused], [found.views.detach(), found.fused.detach()])
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - start)
    step = statistics.median(times) + seconds
    print(
        f"{tower}: step of {batch} x {views} pictures {step:.2f} s, of it the objective {100 * seconds / step:.3f} %"
    )


def throughput(tower: str, seconds: float, batch: int, views: int, peak: float, device: str) -> None:
    """On a GPU, bf16: the whole step with our objective, and the tower with open_clip's loss on the fused embedding alone."""
    from open_clip.loss import ClipLoss
    from torch.utils.flop_counter import FlopCounterMode

    model, optimiser = build(tower, views, device)
    pictures, given, clip = (
        255 * torch.rand(batch, views, 3, 224, 224, device=device),
        targets(batch, device),
        ClipLoss(),
    )

    def ours() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            found = model(pictures)
        loss, _ = objective(found, given, model.scale(), ObjectiveConfig())
        finish(loss)

    def theirs() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            unit = F.normalize(model.tower(((pictures - model.mean) / model.std).flatten(0, 1)), dim=1)
            text = given.text[:, : unit.shape[1]].repeat_interleave(views, dim=0)
            loss = clip(unit, F.pad(text, (0, unit.shape[1] - text.shape[1])), model.scale())
        finish(loss)

    def finish(loss: torch.Tensor) -> None:
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    with FlopCounterMode(display=False) as counter:
        ours()
    theirs()
    times: dict[str, list[float]] = {"ours": [], "open_clip": []}
    for _ in range(20):
        for name, run in (("ours", ours), ("open_clip", theirs)):
            wait(pictures.device)
            start = time.perf_counter()
            run()
            wait(pictures.device)
            times[name].append(time.perf_counter() - start)
    step, other = (statistics.median(times[name]) for name in ("ours", "open_clip"))
    rate, used = batch * views / step, counter.get_total_flops() / step / (peak * 1e12)
    print(
        f"{tower}, bf16: {rate:.0f} pictures/s ({100 * used:.1f} % of {peak:.0f} TFLOP/s), open_clip's step "
        f"{batch * views / other:.0f}; the objective {100 * seconds / step:.2f} % of the step"
    )


if __name__ == "__main__":
    main()
