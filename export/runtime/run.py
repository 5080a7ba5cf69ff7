"""Reads facial expressions on a device: `python3 run.py INPUT...`; from a program: `from run import ExpressionReader`.

This file and `smile_edge/` lie in every bundle and need Python 3.10, numpy and one engine, onnxruntime or TensorRT; a raw scan
also needs what `reader/` needs, and says so.
"""

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # a bundle stays as it was published

try:
    from smile_edge import ExpressionReader, main
except ModuleNotFoundError as error:
    if error.name != "numpy":
        raise
    print("numpy is not installed: run `python3 -m pip install numpy`", file=sys.stderr)
    sys.exit(2)

__all__ = ["ExpressionReader", "main"]

if __name__ == "__main__":
    sys.exit(main())
