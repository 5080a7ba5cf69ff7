"""The vocabulary of labels: one canonical name for each expression and each measure, whatever a data set calls it.

An *expression* is one word of `EXPRESSIONS` or `MORE`. Everything else that people code on a face is a *measure*, a
number with a name: `AU12` occurrence (0 or 1), `AU12_intensity` (0 to 5), `AU12L` and `AU12R` where the side is known,
`pain` (0 to 16, PSPI), `valence` and `arousal` (-1 to 1), `micro_surprise` (0 or 1, one for each class of `MICRO`),
`level` (0 to 4, how strongly an expression was posed in BU-3DFE).
A measure that is not coded is absent or NaN, never 0.
"""

import math
import re
from collections.abc import Mapping

EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
MORE = ("contempt", "embarrassment", "pain")  # states that some data sets name as well
VOCABULARY = EXPRESSIONS + MORE
MICRO = ("negative", "positive", "repression", "surprise", "others")  # micro-expression classes of 4DME
UNLABELLED = ""  # what a mapping may say for a word: keep the scan, without a label

_SPELLINGS = {
    "neutral": ("neutral", "ne", "n"),
    "anger": ("anger", "angry", "an"),
    "disgust": ("disgust", "disgusted", "di"),
    "fear": ("fear", "afraid", "fearful", "fe"),
    "happiness": ("happiness", "happy", "ha"),
    "sadness": ("sadness", "sad", "sa"),
    "surprise": ("surprise", "surprised", "su"),
    "contempt": ("contempt", "contemptuous"),
    "embarrassment": ("embarrassment", "embarrassed"),
    "pain": ("pain", "physical pain"),
}
_CANONICAL = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_RANGES = {  # pattern of a measure -> the least and the greatest value
    r"AU\d{1,2}[LR]?": (0.0, 1.0),
    r"AU\d{1,2}[LR]?_intensity": (0.0, 5.0),
    r"pain": (0.0, 16.0),
    r"valence|arousal": (-1.0, 1.0),
    rf"micro_({'|'.join(MICRO)})": (0.0, 1.0),
    r"level": (0.0, 4.0),
}


def expression(word: str, mapping: Mapping[str, str] | None = None) -> str | None:
    """Canonical name of an expression word such as `Angry`, `AN` or `HAPPY`; None where `mapping` says "no label".

    mapping: a study's own words in lower case -> canonical names or "" (`scans.options.read_mapping`). Raises ValueError
    for a word that is in neither: a label must never be guessed.
    """
    key = word.strip().lower()
    if mapping and key in mapping:
        return mapping[key] or None
    try:
        return _CANONICAL[key]
    except KeyError:
        raise ValueError(
            f"label {word!r} is not a known expression ({', '.join(VOCABULARY)}): correct the name of the file or "
            "folder, or map the word with --mapping"
        ) from None


def measure(name: str, value: float) -> tuple[str, float]:
    """Canonical (name, value) of a measure: `au6`, `AU06` -> `AU06`. NaN passes: not coded.

    Raises ValueError for an unknown name or a value out of range.
    """
    au = re.fullmatch(r"au_?(\d{1,2})([lr]?)(_intensity)?", name.strip(), re.IGNORECASE)
    canonical = f"AU{int(au[1]):02d}{au[2].upper()}{(au[3] or '').lower()}" if au else name.strip().lower()
    bounds = next((b for pattern, b in _RANGES.items() if re.fullmatch(pattern, canonical)), None)
    if bounds is None:
        raise ValueError(
            f"measure {name!r} is unknown: give AU12, AU12_intensity, pain, valence, arousal, level or micro_CLASS with one of "
            f"{', '.join(MICRO)}"
        )
    if not (math.isnan(value) or bounds[0] <= value <= bounds[1]):
        raise ValueError(
            f"{name} = {value:g} is out of range ({bounds[0]:g} to {bounds[1]:g}): leave it empty if not coded"
        )
    return canonical, float(value)
