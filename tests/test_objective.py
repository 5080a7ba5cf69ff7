"""The weighted sum of the losses: names, safety on small and lopsided batches, and several processes as one batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smile import losses
from smile.config import ObjectiveConfig, SmileConfig
from smile.losses import Targets
from smile.model import Encoding
from smile.protocol import METRICS
from tests.slow_losses import encoding, random, slow_alignment, slow_barlow, slow_correlation, targets

torch.set_num_threads(1)


# --- the whole --------------------------------------------------------------------


def test_the_parts_add_up_and_have_the_names_that_sites_send() -> None:
    config = ObjectiveConfig(
        pairs="views", decorrelation=0.1, alignment=2.0, redundancy=3.0, view_alignment=0.5
    )
    found, classes = encoding(6), [0, 1, 0, 2, -1, 1]
    given, rows, scale = targets(6, 8, classes), [0, 1, 2, 3, 5], torch.tensor(5.0)
    loss, parts = losses.objective(found, given, scale, config)
    assert tuple(parts) == tuple(name for name in METRICS if name not in ("num-examples", "seconds"))
    z, text, chosen = found.views.detach().numpy(), given.text[rows].numpy(), [classes[i] for i in rows]
    mv = sum(slow_barlow(z[:, u], z[:, v], config.off_diagonal) for u, v in ((0, 1), (0, 2), (1, 2))) / 3
    fused = found.fused.detach().numpy()[rows]
    vl, least = slow_alignment(fused, text, chosen, 5.0)
    vl += 0.5 * sum(slow_alignment(z[rows, v], text, chosen, 5.0)[0] for v in range(3)) / 3
    c = slow_correlation(fused, text)
    cm = (np.square(c).sum() - np.square(np.diag(c)).sum()) / 56
    assert parts["decorrelation"].item() == pytest.approx(mv, rel=1e-5)
    assert parts["alignment"].item() == pytest.approx(vl - 1.5 * least, rel=1e-4)
    assert parts["redundancy"].item() == pytest.approx(cm, rel=1e-4)
    assert loss.item() == pytest.approx(0.1 * mv + 2 * vl + 3 * cm, rel=1e-5)
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("classes", ["one", "many", "none", "half"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pairs", ["views", "sentences"])
def test_small_and_lopsided_batches_stay_finite(
    batch: int, constant: bool, classes: str, dtype: torch.dtype, pairs: str
) -> None:
    code = {
        "one": [0] * batch,
        "many": list(range(batch)),
        "none": [-1] * batch,
        "half": [0 if i % 2 else -1 for i in range(batch)],
    }[classes]
    config = ObjectiveConfig(pairs=pairs, critic=1.0)
    for mask in (None, torch.arange(3 * batch).view(batch, 3) % 4 > 0, torch.zeros(batch, 3).bool()):
        found = encoding(batch, constant=constant, dtype=dtype)._replace(mask=mask)
        given = targets(batch, 8, code, negatives=torch.zeros(batch, 2, 8), expressions=random(7, 8).float())
        if classes == "one":
            given = given._replace(text=given.text[:1].expand(batch, 8))
        loss, parts = losses.objective(found, given, torch.tensor(100.0), config)
        assert loss.dtype == torch.float32
        loss.backward()
        assert all(torch.isfinite(value) for value in parts.values())
        assert torch.isfinite(found.views.grad).all()
        if mask is None:
            assert parts["redundancy_skipped"] == (
                classes in ("one", "none") or batch == 1 or (classes == "half" and batch < 4)
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_zero_embeddings_stay_finite(dtype: torch.dtype) -> None:
    z = torch.zeros(4, 3, 8, dtype=dtype, requires_grad=True)
    found = Encoding(views=z, fused=z.sum(1), features=z.sum(1))
    loss, _ = losses.objective(found, targets(4, 8), torch.tensor(100.0), ObjectiveConfig())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()


def test_autocast_does_not_coarsen_the_losses() -> None:
    found, given, scale = encoding(8), targets(8, 8), torch.tensor(14.0)
    exact, _ = losses.objective(found, given, scale, ObjectiveConfig())
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = losses.objective(found, given, scale, ObjectiveConfig())
        a = losses.alignment(found.fused, given.text, given.classes, scale)
    assert inside == exact
    assert a == losses.alignment(found.fused, given.text, given.classes, scale)


def test_the_alignment_part_is_zero_at_its_best() -> None:
    classes = [0, 0, 1, 1]
    poles = torch.eye(8)[classes]
    best = Encoding(views=poles[:, None].expand(4, 3, 8), fused=poles, features=poles)
    given = targets(4, 8, classes, text=poles)
    _, parts = losses.objective(best, given, torch.tensor(100.0), ObjectiveConfig())
    assert parts["alignment"].item() == pytest.approx(0, abs=1e-4)


def test_the_order_of_captures_does_not_matter() -> None:
    found, given = encoding(8), targets(8, 8, [0, 1, 2, -1, 0, 1, 2, -1])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = Encoding(*(x[order] for x in found[:3]))
    moved = Targets(*(x[order] for x in given[:5]))
    expected, _ = losses.objective(found, given, torch.tensor(14.0), ObjectiveConfig())
    torch.testing.assert_close(
        losses.objective(shuffled, moved, torch.tensor(14.0), ObjectiveConfig())[0], expected
    )


def test_a_time_loss_is_added_with_its_weight() -> None:
    from smile.siblings import build_heads

    config = ObjectiveConfig(order=0.5, intensity=2.0)
    heads = build_heads(SmileConfig(objective=config), 8)
    found, given = encoding(6), targets(6, 8, sequences=torch.tensor([0, 0, 0, 1, 1, 1]))
    plain, _ = losses.objective(found, given, torch.tensor(5.0), ObjectiveConfig())
    loss, parts = losses.objective(found, given, torch.tensor(5.0), config, heads)
    assert parts["temporal"] > 0
    torch.testing.assert_close(loss, plain + parts["temporal"])


# --- several processes --------------------------------------------------------------


def whole_batch() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor, Targets]:
    torch.manual_seed(0)
    net, scale = torch.nn.Linear(6, 5).double(), torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(8, 3, dtype=torch.bool)
    mask[1, 2] = mask[6, 0] = False
    # The first rank lacks an expression that the second has, and both lack a fourth.
    given = targets(8, 5, [0, 1, 0, -1, 1, 0, 2, 2], text=random(8, 5, seed=9))
    return net, scale, random(8, 3, 6), mask, given


def gradients(rows: slice) -> list[torch.Tensor]:
    """The objective of these rows and its gradients by network and temperature."""
    net, scale, x, mask, given = whole_batch()
    z = net(x[rows]) * mask[rows].unsqueeze(-1)
    found = Encoding(views=z, fused=z.mean(1), features=z.mean(1), mask=mask[rows])
    given = Targets(*(t[rows] for t in given[:5]), expressions=random(4, 5, seed=3))
    config = ObjectiveConfig(pairs="sentences", decorrelation=1.0)
    loss, _ = losses.objective(found, given, scale, config)
    return [loss.detach(), *torch.autograd.grad(loss, [*net.parameters(), scale])]


def _rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks
    )
    torch.save(gradients(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_together_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """Each rank tells the loss of all; the mean of the gradients, which DistributedDataParallel takes, is the gradient of that loss."""
    torch.multiprocessing.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for whole, *parts in zip(gradients(slice(0, 8)), *found, strict=True):
        torch.testing.assert_close(sum(parts) / 2, whole, rtol=0, atol=1e-6)
    assert found[0][0] == found[1][0]
