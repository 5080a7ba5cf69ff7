"""Faulty sites: what their faults make of labels and of packed updates. What a federation makes of them: test_poison."""

from pathlib import Path

import numpy as np
import pytest

from client.app import app as client_app
from simulations.attacks import KINDS, Answer, attacked, away, shuffle_labels
from smile import wire
from smile.config import ViewConfig
from smile.site.store import Site
from tests.random_site import write_random_site


def test_shuffled_labels_are_the_same_ones_elsewhere(tmp_path: Path) -> None:
    before = Site(write_random_site(tmp_path / "client-0", ViewConfig(size=16)))
    copies = [
        Site(shuffle_labels(before.path, tmp_path / str(n), seed=seed)) for n, seed in enumerate((0, 0, 1))
    ]
    for copy in copies:
        assert sorted(copy.labels) == sorted(before.labels) and (copy.labels != before.labels).any()
        assert copy.manifest["labels"] == before.manifest["labels"]
        assert np.array_equal(copy.subjects, before.subjects)
        assert np.array_equal(copy.gather(np.arange(len(copy))), before.gather(np.arange(len(before))))
    assert np.array_equal(copies[0].labels, copies[1].labels)
    assert not np.array_equal(copies[0].labels, copies[2].labels)
    assert np.array_equal(Site(before.path).labels, before.labels)


@pytest.mark.parametrize("top_k", [1.0, 0.25])
@pytest.mark.parametrize("bits", wire.BITS)
def test_a_packed_update_is_turned_round_and_blown_up(bits: int, top_k: float) -> None:
    update = {"a": np.random.default_rng(0).normal(size=(9, 37)).astype(np.float32), "b": np.float32([1, -2])}
    shapes = {name: array.shape for name, array in update.items()}
    packed, _ = wire.encode(update, bits=bits, top_k=top_k)
    honest = wire.decode(packed, shapes)
    for kind, factor, tolerance in (("sign-flipped", -1, 0), ("blown-up", 1e6, 0.01)):
        answer = Answer({name: array.copy() for name, array in packed.items()}, {}, {})
        KINDS[kind](answer)
        for name, array in wire.decode(answer.arrays, shapes).items():
            np.testing.assert_allclose(array, factor * honest[name], rtol=tolerance)


def test_a_silent_site_misses_half_of_the_rounds_and_others_other_ones() -> None:
    def missed(seed: int, site: str) -> list[bool]:
        return [away(seed, site, number) for number in range(1, 201)]

    assert 70 < sum(missed(0, "client-1")) < 130 and missed(0, "client-1") == missed(0, "client-1")
    assert missed(0, "client-1") not in (missed(0, "client-2"), missed(1, "client-1"))


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="fault 'typo' is unknown: choose from nan, "):
        attacked(client_app, {"client-1": "typo"}, seed=0)
