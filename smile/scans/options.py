"""A study's own words for expressions, in a TOML file -> what `Options.mapping` holds.

[expressions]
smile = "happiness"
"rest 2" = ""          # keep these scans, without a label
"""

from pathlib import Path

from ..labels import UNLABELLED, VOCABULARY

EXAMPLE = '[expressions] with lines such as smile = "happiness"'


def read_mapping(path: Path) -> dict[str, str]:
    """Word in lower case -> canonical expression, or "" for no label.

    Raises ValueError with the file, the value and the remedy for anything else than a table of such words.
    """
    import tomllib  # not in Python 3.10, on which the edge bundle runs

    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        table = tomllib.loads(text)
    except OSError as error:
        raise ValueError(
            f"{path}: the mapping cannot be read ({error.strerror or error}): check the path"
        ) from error
    except ValueError as error:  # of the encoding and of TOML
        raise ValueError(f"{path}: the mapping is not TOML ({error}): write {EXAMPLE}") from error
    words = table.pop("expressions", None)
    if table or not isinstance(words, dict):
        odd = f"holds {', '.join(map(repr, sorted(table)))}" if table else "has no table [expressions]"
        raise ValueError(f"{path}: the mapping {odd}: write {EXAMPLE}")
    mapping = {}
    for word, name in words.items():
        if name not in (*VOCABULARY, UNLABELLED):
            raise ValueError(
                f"{path}: {word!r} is mapped to {name!r}, which is no expression: choose from {', '.join(VOCABULARY)}, or "
                '"" for no label'
            )
        key = word.strip().lower()
        if key in mapping:
            raise ValueError(f"{path}: {word!r} is there twice, in another case: keep one of the two")
        mapping[key] = name
    return mapping
