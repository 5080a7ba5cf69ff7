"""Two small simulated hospitals, prepared once a session by the real command's code; a disk that is full."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from smile.config import FederationConfig, SmileConfig, TrainingConfig, ViewConfig

SAMPLES = Path(__file__).parent.parent.parent / "shared" / "sites"


@pytest.fixture(scope="session")
def small_config() -> SmileConfig:
    """A study that trains in a second: 32 px, two rounds of two steps."""
    return SmileConfig(
        views=ViewConfig(size=32),
        training=TrainingConfig(batch_size=8, local_steps=2, holdout=0.34),
        federation=FederationConfig(rounds=2),
    )


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Raw folders of two simulated hospitals with three people each: BU-4DFE and a scanner's export."""
    from simulations.hospitals import write_hospitals

    return write_hospitals(tmp_path_factory.mktemp("raw"), subjects=3, hospitals=("north", "east"), jobs=2)


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, hospitals: list[Path], small_config: SmileConfig
) -> list[Path]:
    """The two hospitals as prepared sites. Read-only: use `sites` where something is written."""
    from smile.site.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared")
    for raw in hospitals:
        prepare(raw, folder / raw.name, views=small_config.views, frames=2, jobs=2, progress=False)
    return [folder / raw.name for raw in hospitals]


@pytest.fixture
def no_file_above() -> Callable[[int], AbstractContextManager[None]]:
    """`with no_file_above(n)`: writing more than n bytes into a file fails, as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def sites(tmp_path: Path, prepared: list[Path]) -> list[Path]:
    """A copy of the prepared sites of one's own: training writes logs into them."""
    return [Path(shutil.copytree(site, tmp_path / "sites" / site.name)) for site in prepared]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of torch, as each process has that Ray or a daemon of the tests starts: another number of threads sums in another order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
