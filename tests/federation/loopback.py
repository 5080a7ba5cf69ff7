"""A real federation on 127.0.0.1: `flower-superlink`, one `flower-supernode` a site and `flwr run`, with TLS and registered names.

Each daemon is a process of its own that can be killed by SIGKILL and started again by the command that docs/federation.md gives.
The ServerApp and ClientApp processes are forked from one that has the libraries loaded (`preloaded.py`), unless `fresh`.
"""

import contextlib
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

from server.run_log import read
from simulations.engines import PRIVATE_ENVIRONMENT, ROOT
from smile.checkpoint import latest
from smile.config import SmileConfig, to_flat
from tests.federation import preloaded

BIN = Path(sys.executable).parent
CONNECTION = "loopback"
START = 120.0  # seconds in which a daemon must be up, also on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ready: Callable[[], Any], *, seconds: float, pause: float = 0.05) -> Any:
    """The first true answer of `ready`. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
    return answer


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL all of them, stopped first so that none can react to the death of another."""
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sign)


def write_certificate(folder: Path) -> None:
    """ca.crt, server.crt and server.key for localhost, valid for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def subject(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("ca", "server")}
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    for name, extension in (("ca", x509.BasicConstraints(ca=True, path_length=None)), ("server", names)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(name))
            .issuer_name(subject("ca"))
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=name == "ca")
        )
        certificate = builder.sign(keys["ca"], hashes.SHA384())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(_private(keys["server"], serialization.PrivateFormat.PKCS8))


def write_site_key(path: Path) -> None:
    """`path` and `path.pub`, as `ssh-keygen -t ecdsa -b 384 -N ""` makes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(_private(key, serialization.PrivateFormat.OpenSSH))
    path.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(path.name + ".pub").write_bytes(public + f" {path.name}\n".encode())


def _private(key: Any, form: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def outcome(output: Path) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """The newest model and the lines of log.jsonl, without what clocks say, and how much was sent to whom forgot a round."""
    lines = read(output / "log.jsonl")
    for entry in [*lines, *(site for line in lines for site in line["sites"])]:
        entry.pop("seconds")
        entry.pop("bytes_sent")
    return load_file(latest(output) / "model.safetensors"), lines


class Loopback:
    """`with Loopback(folder, sites) as federation:` everything up; at the end everything that it started is dead.

    sites: prepared folders, their names are the registered ones. process_isolation: the ServerApp belongs to a
    `flower-superexec` of its own, and so outlives the SuperLink. fresh: each app process imports everything by itself.
    """

    def __init__(
        self, folder: Path, sites: list[Path], *, process_isolation: bool = False, fresh: bool = False
    ) -> None:
        self.folder, self.sites = folder, {site.name: site for site in sites}
        self.process_isolation, self.fresh = process_isolation, fresh
        self.port = free_port()
        self.ports = {name: free_port() for name in self.sites}
        self.started: dict[str, subprocess.Popen] = {}
        self.seen: dict[int, psutil.Process] = {}  # every process that was ever ours
        self.runs = 0

    def __enter__(self) -> "Loopback":
        self.folder.mkdir(parents=True)
        write_certificate(self.folder)
        (self.folder / "superexec.secret").write_bytes(os.urandom(48))
        home = self.folder / "home-coordinator"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "localhost:{self.port}"\n'
            f'root-certificates = "{self.folder / "ca.crt"}"\n'
        )
        self.door = Path(tempfile.mkdtemp(prefix="smile-")) / "door"  # elsewhere: its path must be short
        try:
            if not self.fresh:
                preloaded.write_stand_ins(self.folder / "bin", self.door)
                self._spawn("preloaded", [sys.executable, "-P", preloaded.__file__, str(self.door)])
            self.start_superlink()
            self._register()
            for name in self.sites:
                self.start_supernode(name)
            if not self.fresh:
                wait_for("the preloaded process", self.door.exists, seconds=START)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all that is left: what was started here, and what that started."""
        for name in self.started:
            self.processes(name)
        kill([process for process in self.seen.values() if process.is_running()])
        for process in self.started.values():
            process.wait()
        shutil.rmtree(self.door.parent, ignore_errors=True)

    def _register(self) -> None:
        register = ["flwr", "supernode", "register"]
        asked = []
        for name in self.sites:
            write_site_key(self.folder / name)
            command = [*register, f"{name}.pub", CONNECTION, "--name", name]
            asked.append(self._spawn(f"register-{name}", command))
        assert [process.wait(timeout=START) for process in asked] == [0] * len(asked), self.log("register")

    def start_superlink(self) -> None:
        """`flower-superlink` on the database of before; where the ServerApp is isolated also its `flower-superexec`, unless it lives."""
        secret = ["--superexec-auth-secret-file", "superexec.secret"]
        command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt"]
        command += ["--ssl-keyfile", "server.key", "--enable-supernode-auth", "--database", "state.db"]
        command += ["--isolation", "process", *secret] if self.process_isolation else []
        process = self._spawn("superlink", command)
        if self.process_isolation and not self.processes("superexec"):
            address = ["--runtime-api-address", f"localhost:{self.port}", "--root-certificates", "ca.crt"]
            self._spawn("superexec", ["flower-superexec", *address, *secret])
        wait_for("the SuperLink", lambda: process.poll() is not None or self._healthy(), seconds=START)
        assert process.poll() is None, self.log("superlink")

    def start_supernode(self, name: str) -> subprocess.Popen:
        """The site's `flower-supernode`, with the key under which it was registered."""
        command = [
            "flower-supernode",
            "--root-certificates",
            "ca.crt",
            "--superlink",
            f"localhost:{self.port}",
        ]
        command += [
            "--auth-supernode-private-key",
            name,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.ports[name]),
        ]
        return self._spawn(name, [*command, "--node-config", f'site="{self.sites[name].resolve()}"'])

    def restart_supernode(self, name: str) -> int:
        """Start it until the SuperLink takes it, as systemd would; how often it was refused.

        For a minute after a crash the SuperLink holds the one of before for alive, and the new one ends with 1 ("305").
        """
        deadline, refused = time.monotonic() + START + 60, 0
        while True:
            said = (self.folder / f"{name}.log").stat().st_size
            process = self.start_supernode(name)

            def decided(process: subprocess.Popen = process, said: int = said) -> bool:
                new = (self.folder / f"{name}.log").read_bytes()[said:]
                return process.poll() is not None or b"SuperNode ID" in new

            wait_for(f"SuperNode {name}", decided, seconds=START)
            if process.poll() is None:
                return refused
            assert time.monotonic() < deadline, self.log(name)
            refused += 1
            time.sleep(5)

    def flwr_run(self, config: SmileConfig) -> None:
        """`flwr run`; comes back as soon as the SuperLink has taken the run."""
        settings = " ".join(f"{key}={_toml(value)}" for key, value in to_flat(config).items())
        self.runs += 1
        command = ["flwr", "run", str(ROOT), CONNECTION, "--run-config", settings]
        process = self._spawn(f"flwr-run-{self.runs}", command)
        assert process.wait(timeout=START) == 0, self.log(f"flwr-run-{self.runs}")

    def processes(self, name: str, tool: str = "") -> list[psutil.Process]:
        """The daemon `name` and all that it started and still live, or those of them that run the command `tool`."""
        started = self.started.get(name)
        if started is None:
            return []
        try:
            root = psutil.Process(started.pid)
            found = [root, *root.children(recursive=True)] if root.is_running() else []
        except psutil.NoSuchProcess:
            found = []
        wanted = [process for process in found if _runs(process, tool)]
        apps = {process.pid: self._app(process) for process in found}
        self.seen |= {process.pid: process for process in [*found, *apps.values()] if process}
        return wanted + [app for process in wanted if (app := apps[process.pid])]

    def _app(self, process: psutil.Process) -> psutil.Process | None:
        """The process that does the work of a stand-in."""
        path = self.folder / "bin" / str(process.pid)
        try:
            return psutil.Process(int(path.read_text()))
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def kill(self, name: str, tool: str = "") -> int:
        """SIGKILL the daemon `name` and all below it, or those of them that run `tool`; how many that were."""
        found = self.processes(name, tool)
        kill(found)
        if found and not tool:
            self.started[name].wait(timeout=10)
        return len(found)

    def stop(self, name: str, tool: str) -> None:
        """Let the processes of `name` that run `tool` stand still; `go_on` lets them work again, if they still live."""
        for process in self.processes(name, tool):
            process.suspend()

    def go_on(self, name: str, tool: str) -> None:
        for process in self.processes(name, tool):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def log(self, name: str) -> str:
        """The last words of the daemons whose name begins with `name`."""
        paths = sorted(self.folder.glob(f"{name}*.log"))
        return "\n".join(f"{path.name}:\n" + "\n".join(path.read_text().splitlines()[-15:]) for path in paths)

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen:
        # A home of its own, as on a machine of its own; and one thread, so that sums are in one order everywhere.
        home = self.folder / f"home-{name if name in self.sites else 'coordinator'}"
        environment = {
            **os.environ,
            **PRIVATE_ENVIRONMENT,
            "PATH": os.pathsep.join([str(self.folder / "bin"), str(BIN), os.environ.get("PATH", "")]),
            "FLWR_HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / f"{name}.log").open("a") as log:
            self.started[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        return self.started[name]

    def _healthy(self) -> bool:
        import ssl

        import httpx

        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        try:
            return httpx.get(
                f"https://localhost:{self.port}/health", timeout=2, verify=context, trust_env=False
            ).is_success
        except httpx.HTTPError:
            return False


def _runs(process: psutil.Process, tool: str) -> bool:
    """Whether it lives, and runs this command; an empty one: any."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and (
            not tool or any(Path(part).name == tool for part in process.cmdline())
        )
    except psutil.NoSuchProcess:
        return False


def _toml(value: int | float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
