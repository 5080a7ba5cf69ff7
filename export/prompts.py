"""`python -m export prompts CHECKPOINT WORDS OUT`: other classes for a device whose text side does not run there.

The file holds the class embeddings: no engine changes and no bundle is made anew. K classes, D joint embedding.
"""

import argparse
from pathlib import Path

from .runtime.smile_edge.model import PROMPTS_FORMAT, read_sentences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `command` reads."""
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="that the bundle was made of, or any round of the study",
    )
    add("words", type=Path, metavar="WORDS", help="JSON {expression: [sentence, ...]}")
    add("out", type=Path, metavar="OUT", help="file to write, for `run.py --prompts OUT`")


def command(options: argparse.Namespace) -> int:
    """Write the file. Raises ValueError for words or a checkpoint that cannot be used."""
    from smile import checkpoint as checkpoints
    from smile.site.disk import write_json
    from smile.text import class_embeddings, prompt_embeddings

    from .manifest import text_encoder

    words = read_sentences(options.words)
    config = checkpoints.load(options.checkpoint)[1]
    bank = {name: tuple(sentences) for name, sentences in words.items()}
    embeddings = class_embeddings(prompt_embeddings(config.model, bank))
    content = {"format": PROMPTS_FORMAT, "encoder": text_encoder(config.model), "prompts": words}
    content["embeddings"] = {name: row.tolist() for name, row in zip(bank, embeddings, strict=True)}
    write_json(options.out, content)
    print(f"{options.out}: {', '.join(bank)}; python3 BUNDLE/run.py --prompts {options.out} INPUT")
    return 0
