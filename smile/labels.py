"""The expression vocabulary: one canonical name for each expression, whatever a data set calls it."""

EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")

_SPELLINGS = {
    "neutral": ("neutral", "ne", "n"),
    "anger": ("anger", "angry", "an"),
    "disgust": ("disgust", "disgusted", "di"),
    "fear": ("fear", "afraid", "fearful", "fe"),
    "happiness": ("happiness", "happy", "ha"),
    "sadness": ("sadness", "sad", "sa"),
    "surprise": ("surprise", "surprised", "su"),
}
_CANONICAL = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


def expression(word: str) -> str:
    """Canonical name of an expression word such as `Angry`, `AN` or `HAPPY`.

    Raises ValueError for a word that is not in the vocabulary: a label must never be guessed.
    """
    try:
        return _CANONICAL[word.strip().lower()]
    except KeyError:
        raise ValueError(
            f"label {word!r} is not a known expression ({', '.join(EXPRESSIONS)}): correct the name of the file or folder"
        ) from None
