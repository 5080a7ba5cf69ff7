"""Settings that belong to a site: they come from its own SuperNode or environment, never from the federation."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITES_VARIABLE = "SMILE_SITES"
DEFAULT_SITES = Path("runs/demo/sites")


@dataclass(frozen=True)
class SiteSettings:
    """`flower-supernode --node-config 'site="/data/site" device="cuda" log="/var/log/smile"'`."""

    folder: Path  # a prepared site
    device: str  # cpu, cuda, cuda:1 ...
    pretrained: str  # the open_clip tag or weights file that this site allows a study to load; empty: none
    state: Path  # folder for what a study lets the site keep between rounds


def log_folder(node_config: Mapping[str, Any]) -> Path | None:
    """Where outbox.csv and site.log belong: `log`, else the site's own folder if that is there, else nowhere."""
    if "log" in node_config:
        return Path(str(node_config["log"]))
    try:
        folder = site_settings(node_config).folder
        return folder if folder.is_dir() else None
    except (
        OSError,
        ValueError,
    ):  # is_dir raises where a parent may not be entered, and its text names the path
        return None


def site_settings(node_config: Mapping[str, Any]) -> SiteSettings:
    """Read the node config. Raises ValueError, for the site's own log, when no data folder follows from it.

    A simulated node has only a `partition-id`: it takes that folder, in sorted order, of the prepared sites in
    $SMILE_SITES (default: runs/demo/sites below the working directory, where the demo leaves them).
    """
    if "site" in node_config:
        folder = Path(str(node_config["site"]))
    elif "partition-id" in node_config:
        root = Path(os.environ.get(SITES_VARIABLE, DEFAULT_SITES)).resolve()
        sites = sorted(path.parent for path in root.glob("*/manifest.json"))
        index = int(node_config["partition-id"])
        if index >= len(sites):
            raise ValueError(
                f"{root} holds {len(sites)} prepared sites but simulated node {index} wants one: "
                f"run `make demo` first, or set {SITES_VARIABLE} and num-supernodes to match"
            )
        folder = sites[index]
    else:
        raise ValueError(
            "the SuperNode was started without a site: add --node-config 'site=\"/path/of/prepared/site\"'"
        )
    device, pretrained = str(node_config.get("device", "cpu")), str(node_config.get("pretrained", ""))
    state = Path(str(node_config.get("state") or node_config.get("log") or folder))
    return SiteSettings(folder, device, pretrained, state)
