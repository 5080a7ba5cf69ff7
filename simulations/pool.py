"""Several prepared sites seen as one: what only a simulation may do. For pooled training and for evaluation."""

import numpy as np

from smile.site.store import Site


class Pool:
    """The captures of `sites` one after the other, with subjects and sequences kept apart.

    Fulfils `smile.training.Captures`; `site_of` (n,) tells which site a row comes from. A measure that a site does not
    code is NaN there.
    """

    def __init__(self, sites: list[Site]) -> None:
        self.parts = sites
        self.starts = np.cumsum([0] + [len(site) for site in sites])
        self.site_of = np.repeat(np.arange(len(sites)), [len(site) for site in sites])
        self.subjects = np.concatenate([np.char.add(f"{k}/", site.subjects) for k, site in enumerate(sites)])
        self.labels = np.concatenate([site.labels for site in sites])
        offsets = np.cumsum([0] + [int(site.sequences.max()) + 1 for site in sites])
        self.sequences = np.concatenate(
            [site.sequences + offset for site, offset in zip(sites, offsets, strict=False)]
        )

        self.times = np.concatenate([site.times for site in sites])
        self.measures = self._joined([site.measures for site in sites])
        self.geometry = self._joined([site.geometry for site in sites])
        self.rest = self._joined([site.rest for site in sites])

    def _joined(self, tables: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The columns of all tables, one below the other: name -> (n,) float64."""
        lengths = np.diff(self.starts)
        return {
            name: np.concatenate(
                [table.get(name, np.full(n, np.nan)) for table, n in zip(tables, lengths, strict=True)]
            )
            for name in dict.fromkeys(name for table in tables for name in table)
        }

    def gather(self, rows: np.ndarray, modalities: tuple[str, ...] | None = None) -> np.ndarray:
        rows = np.asarray(rows)
        views: np.ndarray | None = None
        for k, part in enumerate(self.parts):
            chosen = np.flatnonzero(self.site_of[rows] == k)
            if len(chosen) == 0:
                continue
            found = part.gather(rows[chosen] - self.starts[k], modalities)
            if views is None:
                views = np.empty((len(rows), *found.shape[1:]), found.dtype)
            views[chosen] = found
        assert views is not None, "no rows were asked for"
        return views
