"""Two ways to run the same apps over prepared sites: in this process, or by `flwr run` on Ray."""

import dataclasses
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.run_log import read
from smile.config import SmileConfig, to_flat

ROOT = Path(__file__).parent.parent
PRIVATE_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # workers that nobody uses: Flower's actors want another environment
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def federate(
    config: SmileConfig,
    sites: list[Path],
    output: Path,
    *,
    engine: str = "ray",
    logs: Path | None = None,
    resume: bool = False,
    quorum: int | None = None,
    attacks: dict[str, str] | None = None,
) -> None:
    """Run the study of `config` over prepared `sites`; leaves OUTPUT/round-NNNN and OUTPUT/log.jsonl.

    resume: go on with the run that OUTPUT holds. quorum: good replies that a round needs; None: all. attacks: folder name of
    a site -> what it does wrong (`simulations.attacks`), in process only.

    engine: `ray` (Flower's simulation runtime) or `in-process`, where `logs` may take the sites' own logs, so that
    several federations can run over the same sites at once. Raises RuntimeError when the run fails.
    """
    output = output.resolve()
    fresh, again = ("", str(output)) if resume else (str(output), "")
    federation = dataclasses.replace(
        config.federation, min_sites=quorum or len(sites), output=fresh, resume=again
    )
    config = dataclasses.replace(config, federation=federation)
    if engine == "in-process":
        _in_process(config, sites, logs, attacks or {})
    else:
        assert engine == "ray" and not attacks, engine
        _on_ray(config, sites, output)


def _in_process(config: SmileConfig, sites: list[Path], logs: Path | None, attacks: dict[str, str]) -> None:
    from flwr.app import Context, RecordDict

    from client.app import app as client_app
    from server.app import app as server_app
    from simulations.grid import InProcessGrid

    logging.getLogger("flwr").setLevel(
        logging.WARNING
    )  # log.jsonl tells the same; several runs would mix here
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(to_flat(config))
    )
    answering: Any = client_app
    if attacks:
        from simulations.attacks import attacked

        assert attacks.keys() <= {site.name for site in sites}, attacks
        answering = attacked(client_app, attacks, seed=config.training.seed)
    server_app(InProcessGrid(answering, sites, logs=logs), context)


def _on_ray(config: SmileConfig, sites: list[Path], output: Path) -> None:
    home = output / "flower"
    links = output / "sites"  # partition k of the federation = k-th folder here
    links.mkdir(parents=True, exist_ok=True)
    for index, site in enumerate(sites):
        link = links / f"{index:04d}-{site.name}"
        link.unlink(missing_ok=True)
        link.symlink_to(site.resolve(), target_is_directory=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the daemons call each other
    environment = {
        **os.environ,
        **PRIVATE_ENVIRONMENT,
        "PATH": path,
        "FLWR_HOME": str(home),
        "SMILE_SITES": str(links),
    }
    settings = " ".join(f"{key}={_toml(value)}" for key, value in to_flat(config).items())
    size = f"num-supernodes={len(sites)} client-resources-num-cpus=1 client-resources-num-gpus=0.0"
    with _superlink(home, environment) as connection:
        command = [
            _tool("flwr"),
            "run",
            str(ROOT),
            connection,
            "--stream",
            "--run-config",
            settings,
            "--federation-config",
            size,
        ]
        with (output / "flwr-run.log").open("w") as log:
            code = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
    # `flwr run` ends with 0 even when the ServerApp raised, so what it left is asked.
    rounds = read(output / "log.jsonl") if (output / "log.jsonl").is_file() else []
    if code != 0 or len(rounds) < config.federation.rounds or not any(entry["averaged"] for entry in rounds):
        tail = "\n".join((output / "flwr-run.log").read_text().splitlines()[-15:])
        raise RuntimeError(
            f"`flwr run` ended with code {code} before the last round; see {output / 'flwr-run.log'}:\n{tail}"
        )


@contextmanager
def _superlink(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """A simulation SuperLink of our own on a free port of the loopback address, stopped at the end."""
    home.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "simulation"\n\n[superlink.simulation]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with (home / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [
                _tool("flower-superlink"),
                "--insecure",
                "--simulation",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(port, process, home / "superlink.log")
        yield "simulation"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.wait()


def _wait_until_healthy(port: int, process: subprocess.Popen, log: Path, *, seconds: float = 60) -> None:
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the SuperLink did not start: see {log}")


def _tool(name: str) -> str:
    """A command of this environment, even when it is not activated."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"the command {name} is missing: install this project with its `sim` extra")
    return found


def _toml(value: int | float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
