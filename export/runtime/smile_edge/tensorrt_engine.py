"""An engine that `run.py --build-engine` built on this device, through TensorRT's Python module and libcudart: no torch.

B batch, V views, C channels, H W pixels, D joint embedding.
"""

import contextlib
import ctypes
import hashlib
import json
import sys
import weakref
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = "engines"  # in the bundle; made by the device and therefore not in SHA256SUMS
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_MAJOR, _MINOR, _PROCESSORS = 75, 76, 16  # cudaDevAttrComputeCapability..., cudaDevAttrMultiProcessorCount
_CUDART = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "/usr/local/cuda/lib64/libcudart.so",
)
_OTHER = "across different models of devices"  # in a warning of TensorRT
_LINES = 1000  # of TensorRT's log that are kept: an engine may warn at every call for weeks


class Device(NamedTuple):
    """The GPU: its name, compute capability (`SM87`), memory (on a Jetson that of the board) and multiprocessors.

    The name tells too little: CUDA calls every Orin "Orin".
    """

    name: str
    sm: str
    memory_mb: int
    processors: int

    @property
    def memory_gb(self) -> int:
        """What tells models apart; rounded, since what a system keeps for itself changes with its updates."""
        return round(self.memory_mb / 1024)


class Cuda:
    """The few calls of libcudart that an engine needs, on the first GPU; library: for tests. Raises ValueError without a GPU."""

    def __init__(self, library: Any = None) -> None:
        self._library = library or _libcudart()

    def device(self) -> Device:
        properties = ctypes.create_string_buffer(
            1 << 16
        )  # the name is the first field in every version of CUDA
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        numbers = [ctypes.c_int(), ctypes.c_int(), ctypes.c_int()]
        for number, attribute in zip(numbers, (_MAJOR, _MINOR, _PROCESSORS), strict=True):
            self._call(
                "cudaDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), ctypes.c_int(0)
            )
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        name, (major, minor, processors) = properties.value.decode(errors="replace"), numbers
        return Device(name, f"SM{major.value}{minor.value}", total.value >> 20, processors.value)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        assert pointer.value is not None
        return pointer.value

    def free(self, pointer: int) -> None:
        self._call("cudaFree", ctypes.c_void_p(pointer))

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(handle))
        return handle.value or 0

    def end_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def upload(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self._copy(pointer, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)

    def download(self, array: np.ndarray, pointer: int, stream: int) -> None:
        self._copy(array.ctypes.data, pointer, array.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            reason = (self._library.cudaGetErrorString(ctypes.c_int(code)) or b"").decode(errors="replace")
            raise ValueError(
                f"CUDA refuses {name} ({code}: {reason}): free memory of the GPU, or use --provider cpu"
            )


def _libcudart() -> ctypes.CDLL:
    """The first libcudart that reaches a GPU: one that is newer than the driver does not."""
    reason = "libcudart is not installed"
    for name in _CUDART:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        code = library.cudaFree(None)
        if code == 0:
            return library
        reason = f"{name}: {library.cudaGetErrorString(code).decode(errors='replace')}"
    raise ValueError(
        f"no GPU can be used here ({reason}): install NVIDIA's driver and CUDA, or use --provider cpu"
    )


def tensorrt_module(trt: Any = None) -> Any:
    """TensorRT's Python module, or the one that is given. Raises ValueError where it is missing or older than 8.5."""
    if trt is None:
        try:
            import tensorrt
        except ImportError as error:
            raise ValueError(
                f"TensorRT's Python module cannot be imported ({error}): on a Jetson run `sudo apt install python3-libnvinfer` "
                "and take the system's python3, never a TensorRT from pip"
            ) from None
        trt = tensorrt
    if not hasattr(trt.IExecutionContext, "execute_async_v3"):
        raise ValueError(
            f"TensorRT {trt.__version__} is too old (no execute_async_v3): install TensorRT 8.6 or later"
        )
    return trt


def is_legacy(trt: Any) -> bool:
    """Whether the precision is set by builder flags and not by the types in the file: 8.6."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    return hasattr(flags, "EXPLICIT_BATCH") and not hasattr(flags, "STRONGLY_TYPED")


def source_of(trt: Any, precision: str) -> str:
    """The model of the bundle that an engine of this precision is built from."""
    return "fp32" if precision == "fp16" and is_legacy(trt) else precision  # 8.6 halves the weights itself


def listen(trt: Any) -> tuple[Any, deque[str]]:
    """A logger for TensorRT, and the latest of its errors and warnings, marked `[E]` and `[W]`."""
    lines: deque[str] = deque(maxlen=_LINES)

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind wants it so

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.Logger.WARNING):
                lines.append(
                    ("[W] " if int(severity) == int(trt.Logger.WARNING) else "[E] ") + message.strip()
                )

    return Log(), lines


def first_error(lines: deque[str]) -> str:
    """What went wrong, from the log: the first error names the cause, the others its consequences."""
    errors = [line for line in lines if line.startswith("[E]")] or list(lines)
    return errors[0][4:].splitlines()[0] if errors else "TensorRT gives no reason"


class TensorRTEngine:
    """(B, V, C, H, W) float32 -> (B, D) float32, for any B: batches are cut and padded to the profile of the plan.

    One call at a time: the buffers are shared. `close()` gives the memory of the device back.
    Raises ValueError for a plan that TensorRT refuses or that does not map `source` to `target` in float32.
    """

    def __init__(
        self,
        plan: bytes,
        *,
        trt: Any,
        cuda: Cuda,
        precision: str,
        source: str = "views",
        target: str = "embedding",
        dla: int | None = None,
    ) -> None:
        self.name, self.precision = f"tensorrt {trt.__version__} {precision}", precision
        log, self._lines = listen(trt)
        self._runtime = trt.Runtime(log)
        if dla is not None:
            self._runtime.DLA_core = dla
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ValueError(
                f"TensorRT {trt.__version__} cannot load the {precision} engine ({first_error(self._lines)}): "
                f"{remedy(precision)}"
            )
        if any(_OTHER in line for line in self._lines):
            # No error: TensorRT says so at times on the very device that built the plan.
            print(
                f"TensorRT takes the {precision} engine for one of another model of device: compare it with --self-test, and "
                f"where it fails {remedy(precision)}",
                file=sys.stderr,
            )
        self._check_borders(trt, {source, target})
        low, _, high = self._engine.get_tensor_profile_shape(source, 0)
        self._least, self._most, self._shape = low[0], high[0], tuple(high)[1:]
        self._source, self._cuda = source, cuda
        self._context = self._engine.create_execution_context()
        if self._context is None or not self._context.set_input_shape(source, tuple(high)):
            raise ValueError(
                f"the {precision} engine cannot start ({first_error(self._lines)}): free memory of the GPU"
            )
        self.dim = int(self._context.get_tensor_shape(target)[1])
        self._input = cuda.allocate(4 * self._most * int(np.prod(self._shape)))
        self._output = cuda.allocate(4 * self._most * self.dim)
        self._stream = cuda.stream()
        # Once, now or when nobody holds the engine any more.
        self.close = weakref.finalize(self, _release, cuda, (self._input, self._output), self._stream)
        for name, pointer in ((source, self._input), (target, self._output)):
            self._context.set_tensor_address(name, pointer)

    def _check_borders(self, trt: Any, names: set[str]) -> None:
        found = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if found != names or any(self._engine.get_tensor_dtype(name) != trt.DataType.FLOAT for name in names):
            raise ValueError(
                f"the {self.precision} engine has the tensors {sorted(found)} and {sorted(names)} in float32 are wanted: "
                f"{remedy(self.precision)}"
            )

    def __call__(self, views: np.ndarray) -> np.ndarray:
        if views.ndim != 5 or views.shape[1:] != self._shape:
            raise ValueError(
                f"views have shape {views.shape}: this engine takes (batch, {', '.join(map(str, self._shape))})"
            )
        answer = np.empty((len(views), self.dim), np.float32)
        for start in range(0, len(views), self._most):
            part = views[start : start + self._most]
            answer[start : start + self._most] = self._run(part)[: len(part)]
        return answer

    def _run(self, views: np.ndarray) -> np.ndarray:
        """At most as many captures as the profile allows; those that it wants beyond them are blank."""
        batch = np.zeros((max(len(views), self._least), *self._shape), np.float32)
        batch[: len(views)] = views
        answer = np.empty((len(batch), self.dim), np.float32)
        shaped = self._context.set_input_shape(self._source, batch.shape)
        self._cuda.upload(self._input, batch, self._stream)
        done = shaped and self._context.execute_async_v3(self._stream)
        if done:
            self._cuda.download(answer, self._output, self._stream)
        self._cuda.wait(self._stream)  # also after a failure: the copy reads `batch`
        if not done:
            raise ValueError(
                f"{self.name} failed ({first_error(self._lines)}): start the program again, or use --provider cpu"
            )
        return answer


def _release(cuda: Cuda, pointers: tuple[int, ...], stream: int) -> None:
    with contextlib.suppress(ValueError):  # after a fault of the GPU nothing can be freed, nor need it be
        for pointer in pointers:
            cuda.free(pointer)
        cuda.end_stream(stream)


def engine_paths(bundle: Path, precision: str) -> tuple[Path, Path]:
    """The plan, and the JSON beside it that says what it is."""
    return bundle / FOLDER / f"{precision}.engine", bundle / FOLDER / f"{precision}.engine.json"


def remedy(precision: str) -> str:
    return f"run `python3 run.py --build-engine --precision {precision}` on this device"


def _compare(
    path: Path,
    note: Path,
    model: dict[str, Any],
    sums: dict[str, str],
    precision: str,
    trt: Any,
    device: Device,
) -> tuple[str, int | None]:
    """SHA-256 of the plan and the DLA core, from the JSON beside it. Raises ValueError where it is for anything but what is here."""
    try:
        made = json.loads(note.read_text(encoding="utf-8"))
        differences = (
            (made["precision"], precision, "precision"),
            (made["tensorrt"], trt.__version__, "TensorRT"),
            (made["sm"], device.sm, "GPU architecture"),
            (made["device"], device.name, "GPU"),
            (made["processors"], device.processors, "multiprocessors"),
            (made["memory_gb"], device.memory_gb, "GiB of memory"),
            (made["onnx"]["file"], model["file"], "the ONNX file"),
            (made["onnx"]["sha256"], model["sha256"], "SHA-256 of the ONNX file"),
            (made["onnx"]["sha256"], sums.get(model["file"]), "SHA-256 of the ONNX file"),
        )
        digest, dla = made["sha256"], made["dla"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{note} is damaged: {remedy(precision)}") from None
    for built, here, what in differences:
        if built != here:
            raise ValueError(
                f"{path} was built for {what} {built} and here it is {here}: {remedy(precision)}"
            )
    return digest, dla


def load_engine(
    bundle: Path,
    manifest: dict[str, Any],
    sums: dict[str, str],
    precision: str,
    *,
    trt: Any = None,
    cuda: Cuda | None = None,
) -> TensorRTEngine:
    """The engine of this precision that was built and verified on this device, for this very bundle.

    Raises ValueError where there is none, where it was built by another TensorRT, on another GPU or from another ONNX file,
    or where the plan is damaged.
    """
    path, note = engine_paths(bundle, precision)
    if not path.is_file() or not note.is_file():
        raise ValueError(f"{bundle} has no {precision} engine yet: {remedy(precision)}")
    trt, cuda = tensorrt_module(trt), cuda or Cuda()
    source = source_of(trt, precision)
    if source not in manifest["models"]:
        raise ValueError(
            f"{bundle} holds {', '.join(manifest['models'])} and not {source}: make a bundle with it"
        )
    digest, dla = _compare(path, note, manifest["models"][source], sums, precision, trt, cuda.device())
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {remedy(precision)}") from None
    if hashlib.sha256(plan).hexdigest() != digest:
        raise ValueError(
            f"{path} is damaged (its SHA-256 is not the one in {note.name}): {remedy(precision)}"
        )
    return TensorRTEngine(
        plan,
        trt=trt,
        cuda=cuda,
        precision=precision,
        source=manifest["input"]["name"],
        target=manifest["output"]["name"],
        dla=dla,
    )
