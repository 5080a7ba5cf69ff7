"""People dealt out to clients: who holds what, and that each client is a prepared site like any other."""

from pathlib import Path

import numpy as np
import pytest

from simulations.partition import SCHEMES, deal, write
from simulations.pool import Pool
from smile.config import ViewConfig
from smile.site.store import Site
from tests.random_site import write_random_site

VIEWS = ViewConfig(yaws=(-30.0, 0.0, 30.0), size=16)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    return Pool(
        [
            Site(write_random_site(folder / name, VIEWS, people=4, sequences=6, frames=2, seed=seed))
            for seed, name in enumerate(("north", "south"))
        ]
    )


def dealt(pool: Pool, scheme: str, clients: int, *, seed: int = 0, alpha: float = 0.1) -> list[np.ndarray]:
    return deal(pool, np.arange(len(pool.subjects)), scheme, clients=clients, alpha=alpha, seed=seed)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_capture_is_at_one_client_and_the_seed_decides(pool: Pool, scheme: str) -> None:
    clients = {"sites": 0, "subjects": 0}.get(scheme, 4)
    found = dealt(pool, scheme, clients)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(pool.subjects)))
    assert all(np.array_equal(a, b) for a, b in zip(found, dealt(pool, scheme, clients), strict=True))
    if scheme in ("iid", "dirichlet"):
        other = dealt(pool, scheme, clients, seed=1)
        assert any(not np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_what_each_scheme_keeps_together(pool: Pool) -> None:
    assert [len(np.unique(pool.site_of[rows])) for rows in dealt(pool, "sites", 0)] == [1, 1]
    people = [set(pool.subjects[rows]) for rows in dealt(pool, "iid", 3)]
    assert sum(map(len, people)) == len(set().union(*people)) == 8
    assert [len(np.unique(pool.subjects[rows])) for rows in dealt(pool, "subjects", 0)] == [1] * 8
    skewed, even = (
        np.mean([np.unique(pool.labels[r], return_counts=True)[1].max() / len(r) for r in dealt(pool, "dirichlet", 4, alpha=a)])
        for a in (0.1, 1000.0)
    )  # fmt: skip
    assert skewed > 0.4 > 0.3 > even


def test_more_clients_than_people_have_halves(pool: Pool) -> None:
    found = dealt(pool, "subjects", 20)
    assert [len(rows) for rows in found] == [6] * 20
    assert all(len(np.unique(pool.subjects[rows])) == 1 for rows in found)
    assert not np.array_equal(found[0], found[8])  # the same person


def test_no_client_has_more_captures_than_it_may(pool: Pool) -> None:
    everything = np.arange(len(pool.subjects))
    options = {"clients": 0, "alpha": 0.1}
    whole, few, again, other = (
        deal(pool, everything, "subjects", **options, seed=seed, captures=most)
        for seed, most in ((0, 0), (0, 2), (0, 2), (1, 2))
    )
    assert [len(rows) for rows in few] == [2] * 8
    assert all(set(rows) <= set(all_of_them) for rows, all_of_them in zip(few, whole, strict=True))
    assert np.array_equal(few, again) and not np.array_equal(few, other)


def test_too_many_clients_end_in_one_sentence(pool: Pool) -> None:
    with pytest.raises(ValueError, match="96 captures of 8 people are too few for 9 clients"):
        dealt(pool, "iid", 9)


def test_a_client_is_a_prepared_site_with_the_same_pictures(pool: Pool, tmp_path: Path) -> None:
    rows = np.array([3, 60, 7, 50])
    site = Site(write(tmp_path / "client", pool, rows))
    np.testing.assert_array_equal(site.gather(np.arange(4)), pool.gather(rows))
    assert site.labels.tolist() == pool.labels[rows].tolist() and site.views == VIEWS
    assert len(np.unique(site.subjects)) == len(np.unique(pool.subjects[rows]))
    assert site.manifest["counts"]["samples"] == 4
    again = write(tmp_path / "client", pool, rows[:2])  # over what a stopped run left
    assert len(Site(again)) == 2


def test_without_labels_and_with_the_front_alone(pool: Pool, tmp_path: Path) -> None:
    rows = np.array([3, 60])
    site = Site(write(tmp_path / "client", pool, rows, unlabelled=True, frontal=True))
    assert set(site.labels) == {""} and site.manifest["labels"] == {}
    views = site.gather(np.arange(2))
    np.testing.assert_array_equal(views[:, 1], pool.gather(rows)[:, 1])
    assert not views[:, [0, 2]].any() and pool.gather(rows)[:, [0, 2]].any()
