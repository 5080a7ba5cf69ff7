"""Imitations for machines without a GPU: TensorRT's Python module from 8.6.1 to 11.4, and libcudart.

A module holds the names that the matrix says its version has, and nothing else: any other raises AttributeError. Its plans
hold the ONNX file, which onnxruntime computes, so numbers and damage are real; times and GPU code are not.
"""

import ctypes
import hashlib
import json
from types import SimpleNamespace

import numpy as np

VERSIONS = ("8.6.1", "10.3.0", "10.13.3", "10.16.1", "11.0", "11.4")
_ALL = "Y Y Y Y Y Y"
# Read from the symbols of NVIDIA's bindings; one column for each version.
MATRIX = {
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "Y Y Y Y - -",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "- Y Y Y Y Y",
    "BuilderFlag.FP16": "Y Y Y Y - -",
    "BuilderFlag.INT8": "Y Y Y Y - -",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": "Y Y Y Y - -",
    "BuilderFlag.TF32": _ALL,
    "BuilderFlag.GPU_FALLBACK": _ALL,
    "BuilderFlag.VERSION_COMPATIBLE": _ALL,
    "BuilderFlag.EDITABLE_TIMING_CACHE": "- - Y Y Y Y",
    "BuilderFlag.STRIP_PLAN": "- Y Y Y Y Y",
    "Builder.platform_has_fast_fp16": "Y Y Y Y - -",
    "IBuilderConfig.max_workspace_size": "Y - - - - -",
    "IBuilderConfig.set_memory_pool_limit": _ALL,
    "IBuilderConfig.set_calibration_profile": "Y Y Y Y - -",
    "IBuilderConfig.tiling_optimization_level": "- - Y Y Y Y",
    "ICudaEngine.num_bindings": "Y - - - - -",
    "ICudaEngine.get_tensor_name": _ALL,
    "IExecutionContext.execute_async_v2": "Y - - - - -",
    "IExecutionContext.execute_async_v3": _ALL,
    "OnnxParser.supports_model": "Y Y Y Y - -",
    "OnnxParser.supports_model_v2": "- Y Y Y Y Y",
}
_FLAGS = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1, "FP16": 0, "INT8": 2, "GPU_FALLBACK": 3, "TF32": 7}
_MAGIC = b"imitated plan\n"


class Strict:
    """As pybind's classes: an attribute that the class lacks can be neither read nor set."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


class Fake:
    """The module `trt` of one version, and `seen`, what was asked of it.

    sm: of the GPU on which it builds and runs. dla: number of DLA cores. wrong: a plan computes with this relative error.
    elsewhere: it takes every plan for one of another model of device.
    """

    def __init__(
        self, version: str, *, sm: str = "SM87", dla: int = 0, wrong: float = 0.0, elsewhere: bool = False
    ) -> None:
        self.__version__, self.__name__, self.__file__ = version, "tensorrt", "/usr/lib/python3/tensorrt.py"
        self.seen = SimpleNamespace(
            builds=0, flags=set(), network_flags=None, limits={}, profile={}, cache=None, dla=None
        )
        column = VERSIONS.index(version)
        has = {name for name, row in MATRIX.items() if row.split()[column] == "Y"}
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.DeviceType = SimpleNamespace(GPU="gpu", DLA="dla")
        self.DataType = SimpleNamespace(FLOAT="float32", HALF="float16")
        self._sm, self._dla, self._wrong, self._elsewhere = sm, dla, wrong, elsewhere
        self._legacy = "NetworkDefinitionCreationFlag.STRONGLY_TYPED" not in has
        for enum in ("NetworkDefinitionCreationFlag", "BuilderFlag"):
            names = [name.partition(".")[2] for name in has if name.startswith(f"{enum}.")]
            setattr(self, enum, SimpleNamespace(**{name: _FLAGS.get(name, 20) for name in names}))
        for make in (_logging, _configuring, _building, _parsing, _loading, _running):
            for cls in make(self):
                setattr(self, cls.__name__, cls)
        for name, row in MATRIX.items():
            owner, _, attribute = name.partition(".")
            if row.split()[column] == "-" and attribute in vars(getattr(self, owner)):
                delattr(getattr(self, owner), attribute)
            elif row.split()[column] == "Y" and not hasattr(getattr(self, owner), attribute):
                setattr(getattr(self, owner), attribute, None)  # is there, and none of ours should need it


def _logging(trt: Fake) -> list[type]:
    class ILogger:
        def __init__(self) -> None:
            self._started = True  # pybind fails later when a subclass forgets this

    class Logger(ILogger):
        ERROR, WARNING, INFO = 1, 2, 3

    return [ILogger, Logger]


def _configuring(trt: Fake) -> list[type]:
    class IOptimizationProfile(Strict):
        def set_shape(self, name: str, low: tuple, usual: tuple, high: tuple) -> None:
            trt.seen.profile[name] = (tuple(low), tuple(usual), tuple(high))

    class IBuilderConfig(Strict):
        default_device_type, DLA_core = "gpu", -1

        def __init__(self) -> None:
            self._profiles, self._cache = 0, None
            trt.seen.flags = {_FLAGS["TF32"]}

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            trt.seen.limits[pool] = size

        def set_flag(self, flag: int) -> None:
            trt.seen.flags.add(flag)

        def clear_flag(self, flag: int) -> None:
            trt.seen.flags.discard(flag)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            shapes = trt.seen.profile.values()
            self._profiles += all(
                a <= b <= c for low, mid, high in shapes for a, b, c in zip(low, mid, high, strict=True)
            )
            return self._profiles - 1

        def create_timing_cache(self, data: bytes) -> SimpleNamespace | None:
            if data and not data.startswith(b"timings"):
                return None
            return SimpleNamespace(
                data=data, serialize=lambda: memoryview(data or b"timings of " + trt._sm.encode())
            )

        def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
            if cache.data and not cache.data.endswith(trt._sm.encode()) and not ignore_mismatch:
                return False
            self._cache, trt.seen.cache = cache, cache.data
            return True

        def get_timing_cache(self) -> SimpleNamespace | None:
            return self._cache

    return [IOptimizationProfile, IBuilderConfig]


def _building(trt: Fake) -> list[type]:
    class Builder(Strict):
        num_DLA_cores = trt._dla

        def __init__(self, log: object) -> None:
            assert log._started
            self._log = log

        def create_network(self, flags: int = 0) -> SimpleNamespace:
            known = [_FLAGS[name] for name in vars(trt.NetworkDefinitionCreationFlag)]
            assert flags & ~sum(1 << bit for bit in known) == 0, (
                "TensorRT refuses flags that it does not know"
            )
            trt.seen.network_flags = flags
            return SimpleNamespace(num_inputs=0, onnx=b"")

        def create_builder_config(self) -> object:
            return trt.IBuilderConfig()

        def create_optimization_profile(self) -> object:
            return trt.IOptimizationProfile()

        def build_serialized_network(
            self, network: SimpleNamespace, config: SimpleNamespace
        ) -> memoryview | None:
            trt.seen.builds += 1
            trt.seen.dla = (config.default_device_type, config.DLA_core)
            if config._profiles != 1 or "workspace" not in trt.seen.limits:
                self._log.log(1, "Error Code 4: Internal Error (no profile, or no limit of memory)")
                return None
            if not trt._legacy and trt.seen.flags & {_FLAGS["FP16"], _FLAGS["INT8"]}:
                self._log.log(
                    1, "Error Code 3: API Usage Error (precision flags in a strongly typed network)"
                )
                return None
            if config.DLA_core >= 0:
                self._log.log(2, "Layer /mul: Unsupported on DLA. Switching this layer's device type to GPU.")
                self._log.log(2, "Layer /div: Unsupported on DLA. Switching this layer's device type to GPU.")
            halved = trt._legacy and trt.BuilderFlag.FP16 in trt.seen.flags
            head = {
                "version": trt.__version__,
                "sm": trt._sm,
                "profile": trt.seen.profile,
                "error": trt._wrong + (1e-3 if halved else 0),
                "sha256": hashlib.sha256(network.onnx).hexdigest(),
            }
            return memoryview(_MAGIC + json.dumps(head).encode() + b"\n" + network.onnx)

    return [Builder]


def _parsing(trt: Fake) -> list[type]:
    class OnnxParser(Strict):
        num_errors = 0

        def __init__(self, network: SimpleNamespace, log: object) -> None:
            self._network = network

        def supports_model(self, model: bytes) -> bool:
            raise AssertionError("its word is not enough")

        supports_model_v2 = supports_model

        def parse(self, model: bytes) -> bool:
            import onnx

            try:
                proto = onnx.load_from_string(model)
                opset = proto.opset_import[0].version
            except Exception:
                self._reason, opset, self.num_errors = "Failed to parse ONNX model from buffer", 0, 1
                return False
            if trt._legacy and opset > 17:
                self._reason, self.num_errors = "In node 4 (importReduceL2): UNSUPPORTED_NODE\n more", 1
                return False
            names = [tensor.name for tensor in proto.graph.input]
            self._network.num_inputs, self._network.onnx = len(names), model
            self._network.get_input = lambda i: SimpleNamespace(name=names[i])
            return True

        def get_error(self, i: int) -> SimpleNamespace:
            return SimpleNamespace(desc=lambda: self._reason)

    return [OnnxParser]


def _running(trt: Fake) -> list[type]:
    class IExecutionContext(Strict):
        def __init__(self, head: dict, session: object) -> None:
            self._head, self._session, self._places, self._shape = head, session, {}, None

        def set_input_shape(self, name: str, shape: tuple) -> bool:
            low, _, high = self._head["profile"][name]
            fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
            self._shape = tuple(shape) if fits else None
            return fits

        def get_tensor_shape(self, name: str) -> tuple:
            return (self._shape[0], self._session.get_outputs()[0].shape[1])

        def set_tensor_address(self, name: str, address: int) -> None:
            self._places[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            if self._shape is None or not stream:
                return False
            (source,), (target,) = self._session.get_inputs(), self._session.get_outputs()
            data = ctypes.string_at(self._places[source.name], 4 * int(np.prod(self._shape)))
            views = np.frombuffer(data, np.float32).reshape(self._shape)
            answer = self._session.run(None, {source.name: views})[0]
            answer[:, ::2] *= np.float32(1 + self._head["error"])
            ctypes.memmove(self._places[target.name], np.ascontiguousarray(answer).tobytes(), answer.nbytes)
            return True

    class ICudaEngine(Strict):
        def __init__(self, head: dict, session: object) -> None:
            self._head, self._session = head, session
            self._names = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]

        @property
        def num_io_tensors(self) -> int:
            return len(self._names)

        def get_tensor_name(self, i: int) -> str:
            return self._names[i]

        def get_tensor_dtype(self, name: str) -> str:
            tensors = (*self._session.get_inputs(), *self._session.get_outputs())
            return {"tensor(float)": "float32"}.get({t.name: t.type for t in tensors}[name], "float16")

        def get_tensor_profile_shape(self, name: str, number: int) -> list:
            return [tuple(shape) for shape in self._head["profile"][name]]

        def create_execution_context(self) -> IExecutionContext:
            return IExecutionContext(self._head, self._session)

    return [IExecutionContext, ICudaEngine]


def _loading(trt: Fake) -> list[type]:
    class Runtime(Strict):
        DLA_core = -1

        def __init__(self, log: object) -> None:
            assert log._started
            self._log = log

        def deserialize_cuda_engine(self, plan: bytes) -> object | None:
            import onnxruntime

            try:
                magic, head, onnx = plan.split(b"\n", 2)
                head = json.loads(head)
                whole = magic + b"\n" == _MAGIC and hashlib.sha256(onnx).hexdigest() == head["sha256"]
            except ValueError:
                whole = False
            if trt._elsewhere:
                self._log.log(
                    2, "Using an engine plan file across different models of devices is not recommended."
                )
            if not whole or (head["version"], head["sm"]) != (trt.__version__, trt._sm):
                self._log.log(1, "Error Code 1: Serialization (the plan is of another version, or damaged)")
                return None
            return trt.ICudaEngine(
                head, onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
            )

    return [Runtime]


class FakeCudart:
    """libcudart on the memory of the host. refuse: name of a function -> code that it returns. held: what was not freed."""

    def __init__(
        self,
        *,
        name: str = "Orin",
        sm: tuple[int, int] = (8, 7),
        memory_mb: int = 7620,
        processors: int = 8,
        refuse: dict | None = None,
    ):
        self.name, self.sm, self.memory_mb, self.refuse = name, sm, memory_mb, refuse or {}
        self.processors = processors
        self.held: dict[int, object] = {}

    def __getattribute__(self, name: str) -> object:
        if name.startswith("cuda") and (code := self.refuse.get(name)):
            return lambda *arguments: code
        return object.__getattribute__(self, name)

    def cudaGetErrorString(self, code: ctypes.c_int) -> bytes:
        return b"out of memory" if code.value == 2 else b"unknown error"

    def cudaGetDeviceProperties(self, properties: ctypes.Array, device: ctypes.c_int) -> int:
        properties.value = self.name.encode()
        return 0

    def cudaDeviceGetAttribute(self, value: object, attribute: ctypes.c_int, device: ctypes.c_int) -> int:
        value._obj.value = {75: self.sm[0], 76: self.sm[1], 16: self.processors}[attribute.value]
        return 0

    def cudaMemGetInfo(self, free: object, total: object) -> int:
        free._obj.value = total._obj.value = self.memory_mb << 20
        return 0

    def cudaMalloc(self, pointer: object, size: ctypes.c_size_t) -> int:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.held[ctypes.addressof(block)] = block
        return 0

    def cudaFree(self, pointer: ctypes.c_void_p) -> int:
        del self.held[pointer.value]
        return 0

    def cudaStreamCreate(self, handle: object) -> int:
        handle._obj.value = 7
        self.held[7] = "stream"
        return 0

    def cudaStreamDestroy(self, handle: ctypes.c_void_p) -> int:
        return self.cudaFree(handle)

    def cudaMemcpyAsync(self, target, source, size, kind, stream) -> int:
        device = target if kind.value == 1 else source
        start = max(p for p in self.held if p <= device.value)
        assert device.value + size.value <= start + len(self.held[start]), "a copy beyond the buffer"
        ctypes.memmove(target, source, size.value)
        return 0

    def cudaStreamSynchronize(self, stream: ctypes.c_void_p) -> int:
        return 0 if stream.value == 7 else 1
