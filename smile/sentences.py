"""Where the sentence of a capture comes from: its label, clusters, what its geometry says, or nowhere.

n captures, m of them in training, B rows of a batch, S different sentences, D joint embedding, K classes.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .captions import describe
from .config import SmileConfig
from .facs import GRADES, PHRASES, SCALES
from .labels import EXPRESSIONS
from .prompts import PROMPTS, prompts_for
from .text import class_embeddings, embed, prompt_embeddings, text_width

if TYPE_CHECKING:
    from .model import SmileModel
    from .training import Captures

WORDINGS = 4  # of each caption, one of which is drawn
DROPPED = 0.25  # chance that a phrase is left out of a wording
CHANGES = 4  # sentences with one changed fact beside each sentence, for the critic
_OPPOSITES = {word: other[0] for ends in SCALES for words, other in (ends, ends[::-1]) for word in words}
_PARTS = {word for phrase in PHRASES for word in phrase.text.split(" ")} - _OPPOSITES.keys() - GRADES.keys()
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Source:
    """Draws one sentence for each capture of a batch, from sentences that were embedded once."""

    classes: torch.Tensor  # (n,) int64, -1: no sentence
    wordings: list[torch.Tensor]  # class -> (P,) int64, its sentences
    text: torch.Tensor  # (S, D) float32, unit rows
    changed: (
        torch.Tensor | None
    )  # (S, CHANGES) int64: the sentences that differ in one fact; None without a critic
    expressions: torch.Tensor | None = None  # (K, D) float32: prototypes of the classes 0 to K - 1

    def __call__(
        self, rows: np.ndarray, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """rows (B,) int -> text (B, D) float32 unit rows, 0 where there is no sentence; classes (B,) int64, -1 there;
        negatives (B, CHANGES, D), or None where `objective.critic` is 0."""
        classes = self.classes[torch.from_numpy(np.asarray(rows))]
        draws = torch.rand(len(rows), generator=generator).tolist()
        chosen = torch.tensor(
            [
                int(self.wordings[k][int(draw * len(self.wordings[k]))]) if k >= 0 else 0
                for k, draw in zip(classes.tolist(), draws, strict=True)
            ]
        )
        there = (classes >= 0).float()[:, None]
        negatives = None if self.changed is None else self.text[self.changed[chosen]] * there[..., None]
        return self.text[chosen] * there, classes, negatives


def sentence_source(
    captures: "Captures", config: SmileConfig, rows: np.ndarray, *, model: "SmileModel | None" = None
) -> Source:
    """The source that `objective.prompt-source` names.

    - `label`: any sentence of the bank for the label. Supervised by another name.
    - `pseudo`: the same for a label made up by `smile.pseudo.assign`, with `model`.
    - `geometry`: what the measurements say (`smile.captions`). The class is the caption: who does the same is a positive.
    - `none`: nothing; all classes are -1.

    rows: (m,) int, the captures of training people; nothing is learnt from others, and only these get a sentence.
    Raises ValueError where the site has no measurement for `geometry`.
    """
    source = config.objective.prompt_source
    classes = np.full(len(captures.subjects), -1)
    if source == "none":
        changed = torch.zeros(1, CHANGES, dtype=torch.int64) if config.objective.critic else None
        return Source(torch.from_numpy(classes), [], torch.zeros(1, text_width(config.model)), changed)
    if source == "geometry":
        captions = describe(captures.geometry, captures.rest, captures.subjects, captures.sequences, rows)
        if not any(captions):
            raise ValueError(
                "no capture has measurements for objective.prompt-source = geometry: prepare the site again, or choose another source"
            )
        names = sorted(set(captions) - {""})
        classes[rows] = [names.index(caption) if caption else -1 for caption in captions]
        groups = [_wordings(caption, config.training.seed) for caption in names]
    else:
        names = list(PROMPTS)
        groups = list(PROMPTS.values())
        labels = _made_up(captures, config, rows, model) if source == "pseudo" else captures.labels[rows]
        classes[rows] = [names.index(label) if label else -1 for label in labels.tolist()]
    found = _source(classes, groups, config)
    if source == "geometry" or config.objective.contrast == "batch":
        return found
    return replace(found, expressions=torch.from_numpy(class_prototypes(config, list(EXPRESSIONS))))


def class_prototypes(config: SmileConfig, classes: list[str]) -> np.ndarray:
    """What zero-shot compares with: (K, D) float32 of unit length, one row for each expression named."""
    bank = prompt_embeddings(config.model, prompts_for(config))
    return class_embeddings({name: bank[name] for name in classes})


def changes(sentence: str) -> list[str]:
    """All sentences that differ from this one in one fact: the word of a scale becomes its opposite, without a grade.

    Only of phrases of one such word and parts of a face, not of "looks down on someone"; the rest of a sentence stays.
    """
    pieces = re.split(r"(, | and )", sentence)
    found = []
    for place in range(0, len(pieces), 2):
        words = [word for word in pieces[place].split(" ") if word not in _ARTICLES]
        said = [word for word in words if word in _OPPOSITES]
        if len(said) == 1 and set(words) - set(said) - GRADES.keys() <= _PARTS:
            other = " ".join(_OPPOSITES.get(word, word) for word in words if word not in GRADES)
            found.append("".join([*pieces[:place], other, *pieces[place + 1 :]]))
    return found


def _made_up(
    captures: "Captures", config: SmileConfig, rows: np.ndarray, model: "SmileModel | None"
) -> np.ndarray:
    from .pseudo import assign

    assert model is not None, "pseudo labels need the model"
    return assign(captures, config, rows, model)


def _wordings(caption: str, seed: int) -> tuple[str, ...]:
    """The caption, and others with some phrases left out and the rest in another order; the same at every site."""
    phrases = caption.split(", ")
    random = np.random.default_rng([seed, *caption.encode()])
    found = [caption]
    for _ in range(WORDINGS - 1):
        kept = [phrase for phrase in phrases if random.uniform() >= DROPPED]
        found.append(", ".join(random.permutation(kept or phrases)))
    return tuple(dict.fromkeys(found))


def _source(classes: np.ndarray, groups: list[tuple[str, ...]], config: SmileConfig) -> Source:
    """groups: class -> its sentences."""
    place: dict[str, int] = {}
    wordings = [_places(group, place) for group in groups]
    changed = None
    if config.objective.critic:
        random = np.random.default_rng(config.training.seed)
        rows: dict[int, torch.Tensor] = {}
        for number, group in enumerate(groups):
            others = [sentence for other in groups[:number] + groups[number + 1 :] for sentence in other]
            for sentence in group:
                # A sentence without a word that could be turned round: what others say instead.
                wrong = changes(sentence) or [other for other in others if other != sentence] or [sentence]
                picked = random.choice(len(wrong), CHANGES, replace=len(wrong) < CHANGES)
                rows[place[sentence]] = _places([wrong[i] for i in picked], place)
        changed = torch.stack([rows[number] for number in sorted(rows)])
    return Source(
        torch.from_numpy(classes), wordings, torch.from_numpy(embed(list(place), config.model)), changed
    )


def _places(sentences: "list[str] | tuple[str, ...]", place: dict[str, int]) -> torch.Tensor:
    """Where the sentences stand in `place`, which grows by those it has not."""
    return torch.tensor([place.setdefault(sentence, len(place)) for sentence in sentences])
