"""Damaged files through the real readers: `python -m tests.fuzz.run [FORMAT ...] [--cases N] [--seed S] [--first K]`.

A reader returns, or raises ValueError with one sentence. Anything else is a failure: another exception, a message of several
lines, more than 2 s of computing, memory beyond 1 GiB over what the process had, or the death of the process. A failure prints
format, seed and case; `--first CASE --cases 1` plays it again, and `--keep FOLDER` writes its bytes.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.mutate import mutated

SECONDS, MEMORY = 2.0, 1 << 30
LONGEST_MESSAGE = 1200  # letters
MOST_FAILURES = 10  # of a format, then it stops


def main() -> None:
    from tests.fuzz.formats import FORMATS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "formats", nargs="*", default=list(FORMATS), metavar="FORMAT", help=", ".join(FORMATS)
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    if len(chosen.formats) == 1:
        sys.exit(attack(chosen.formats[0], chosen.cases, chosen.seed, chosen.first, chosen.keep))
    broken = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for text, worked in pool.map(
            lambda name: in_process(name, chosen.cases, chosen.seed), chosen.formats
        ):
            print(text, flush=True)
            broken |= not worked
    sys.exit(broken)


def in_process(name: str, cases: int, seed: int) -> tuple[str, bool]:
    """`attack` in a process of its own -> (what it printed, whether all is well)."""
    with tempfile.NamedTemporaryFile() as at:
        command = [sys.executable, "-m", "tests.fuzz.run", name, "--cases", str(cases), "--seed", str(seed)]
        environment = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "SMILE_FUZZ_AT": at.name,
        }
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
        text = done.stdout.strip()
        if done.returncode not in (0, 1):
            last = Path(at.name).read_text()
            text += f"\n{name}: seed {seed}, case {last}: the process died ({done.returncode}) {done.stderr[-500:]}"
        elif done.returncode and "failures" not in text:  # the valid file was not read
            text += f"\n{name}: {done.stderr[-1500:]}"
        return text.strip(), done.returncode == 0


def attack(name: str, cases: int, seed: int, first: int, keep: Path | None) -> int:
    """Runs the cases here, under the limits; prints failures and a last line. 1 where there were failures."""
    from tests.fuzz.formats import FORMATS

    target = FORMATS[name]
    seeds = target.seeds()
    begin, failures, accepted = time.monotonic(), 0, 0
    at = os.open(os.environ.get("SMILE_FUZZ_AT", os.devnull), os.O_WRONLY)
    signal.signal(signal.SIGPROF, too_long)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.name
        target.beside(path.parent)
        path.write_bytes(seeds[0])
        target.read(path)  # imports what it needs; the first file must be read
        _limit_memory()
        for case in range(first, first + cases):
            os.pwrite(at, b"%-12d" % case, 0)
            data = mutated(seeds, seed=seed, case=case)
            path.write_bytes(data)
            wrong = judge(target.read, path)
            accepted += wrong is None
            if wrong:
                failures += 1
                print(f"{name}: seed {seed}, case {case}: {wrong}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{case}-{target.name}").write_bytes(data)
            if failures >= MOST_FAILURES:
                break
    seconds = time.monotonic() - begin
    print(f"{name}: {cases} cases from {first}, {failures} failures, {accepted} read, {seconds:.0f} s")
    return int(failures > 0)


def _limit_memory() -> None:
    """The memory that is there now and MEMORY more."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def too_long(signum: int, frame: object) -> None:
    raise TimeoutError(f"more than {SECONDS:g} s")


def judge(read: Callable[[Path], object], path: Path) -> str | None:
    """None: read. Empty: refused as it should be. Else what is wrong."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter(
                "error", RuntimeWarning
            )  # of numpy: something was computed with what is no number
            read(path)
        return None
    except ValueError as error:
        return _bad_sentence(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        inner = [f for f in traceback.extract_tb(error.__traceback__) if "smile" in f.filename][-1:]
        places = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (*inner, where))
        return f"{type(error).__name__}: {str(error)[:200]} ({places})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _bad_sentence(error: ValueError) -> str:
    cause: BaseException | None = error
    while cause is not None:  # a reader that takes any exception for a damaged file would hide these
        if isinstance(cause, MemoryError | TimeoutError | RecursionError):
            return f"{type(cause).__name__} behind {str(error)[:200]!r}"
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if type(error) is not ValueError:
        return f"{type(error).__name__}: {text[:200]}"
    if not text.isprintable() or len(text) > LONGEST_MESSAGE or len(text) < 20:
        return f"not one short sentence: {text[:300]!r}"
    return ""


if __name__ == "__main__":
    main()
