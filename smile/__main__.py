"""The `smile` command of a site. Each subcommand lives in its own room and is imported only when called."""

import argparse
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .site.text import plain, silence

# name -> (module, one line); the module has NAME_arguments(parser) and run_NAME(arguments) -> exit code
COMMANDS = {
    "doctor": ("smile.site.doctor", "look at raw scans, write nothing: what is there, what is wrong"),
    "prepare": ("smile.site.commands", "raw scans -> a prepared site"),
    "inspect": ("smile.site.commands", "check a prepared site, count it, draw a contact sheet"),
    "train": ("smile.train_command", "train on one prepared site, without any federation"),
    "evaluate": ("smile.evaluate_command", "measure a checkpoint on a prepared site by a named protocol"),
}

EXAMPLES = """examples:
  smile doctor /data/BU-4DFE                 look at raw scans first; writes nothing
  smile prepare /data/BU-4DFE /data/site     turn raw scans into a prepared site; run it again to go on
  smile inspect /data/site                   check it and look at it
  smile train /data/site --out runs/mine     train on it alone, without any federation
  smile prepare --help                       all options of a command"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 fine, 2 an error of the user in one sentence on standard error, 130 after Ctrl-C,
    141 where the program that read the output has ended."""
    # closed before the start, as by `>&-`: else a shard may get their number and what a library says to them
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):  # the name of a file may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = _glue_signed(list(sys.argv[1:] if argv is None else argv))
    parser = Parser(
        prog="smile",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train on private 3D and 4D face scans that never leave the building.",
    )
    parser.add_argument("--version", action="version", version=f"smile {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, (module, line) in COMMANDS.items():
        command = commands.add_parser(name, help=line, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == called:
            getattr(importlib.import_module(module), f"{name}_arguments")(command)
    arguments, unknown = parser.parse_known_args(words)
    name = arguments.command
    if unknown:
        commands.choices[name].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code = getattr(importlib.import_module(COMMANDS[name][0]), f"run_{name}")(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `smile doctor RAW | head`
        silence(sys.stdout)
        return 141
    except KeyboardInterrupt as stop:
        return _fail(name, str(stop) or "stopped", 130)
    except ValueError as error:
        return _fail(name, str(error), 2)
    except OSError as error:  # of the user's folders; a traceback would not help
        file, reason = error.filename2 or error.filename, error.strerror or str(error)
        return _fail(name, f"{file}: {reason}" if file else reason, 2)
    except ModuleNotFoundError as error:
        return _fail(name, f"the package {error.name} is missing: pip install 'smile-federated[client]'", 2)


def _glue_signed(words: list[str]) -> list[str]:
    """`--yaws -30,0,30` -> `--yaws=-30,0,30`: argparse takes a list beginning with a minus for an option."""
    glued: list[str] = []
    for word in words:
        if glued and re.fullmatch(r"--[a-z-]+", glued[-1]) and re.fullmatch(r"-[\d.,+-]+", word):
            glued[-1] += f"={word}"
        else:
            glued.append(word)
    return glued


def _fail(command: str, sentence: str, code: int) -> int:
    print(f"smile {command}: {plain(' '.join(sentence.split()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
