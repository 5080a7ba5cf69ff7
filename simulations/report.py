"""report.html: one self-contained page that a coordinator can mail. No script, no outside link."""

import base64
import csv
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from server.run_log import read
from simulations import compare

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .8rem; border-bottom: 1px solid #d5dde5; text-align: right; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; } h2 { margin-top: 2.5rem; }
.note { background: #fff6dd; border-left: 4px solid #e0a800; padding: .6rem 1rem; } code { background: #eef2f6; padding: 0 .3rem; }
"""
FACES_STAY = "Contact sheets show faces: they stay in the sites' folders, and this page can be mailed."
BLUE, GREY, GREEN, ORANGE = "#2f6db5", "#9aa7b4", "#3a9a66", "#d9822b"


def write_report(
    out: Path, summary: dict[str, Any], results: list[dict[str, Any]], sites: list[Path], *, simulated: bool
) -> Path:
    """Draw everything below `out` that the journey left; returns the page's path."""
    import matplotlib

    matplotlib.use("Agg")
    log = read(out / "federation" / f"seed-{summary['settings']['training']['seed']}" / "log.jsonl")
    faces = (
        "simulated faces" if simulated else "the given scans (see their own description for what they are)"
    )
    body = [
        f"<h1>{html.escape(summary['scenario'])}: {summary['clients']} sites, {summary['rounds']} rounds</h1>",
        f"<p class=note>Made on {faces}. Text source: <b>{summary['prompt_source']}</b> "
        + (
            "(prompts chosen by the sites' own labels: supervised by another name). "
            if summary["prompt_source"] == "label"
            else ". "
        )
        + "These figures measure this software on this data; they are not the accuracy of any published method.</p>",
        "<h2>Held-out people: can the encoder read expressions?</h2>",
        _table(summary),
        _image(_bars(summary)),
        f"<p>{summary['test_subjects']} people that no site trained on ({summary['test_sequences']} captures) in each of "
        f"{summary['seeds']} seeds; ± is the standard deviation over seeds. Probes are fitted on the training people of all sites.</p>",
        "<h2>Confusion of the federated model (zero-shot and linear probe, all seeds)</h2>",
        _image(_confusions(results, summary["classes"])),
        "<h2>Losses by part, first seed</h2>",
        _image(_losses(log)),
        "<h2>What left each site</h2>",
        _outboxes(sites, summary),
        "<h2>The bundle on the edge</h2>",
        _bundle(summary),
        "<h2>What the sites prepared</h2>",
        *(_sheets(sites) if simulated else [f"<p>{FACES_STAY}</p>"]),
        "<h2>How it was made</h2>",
        _made(summary),
    ]
    head = f"<meta charset=utf-8><title>smile-federated</title><style>{STYLE}</style>"
    page = f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>"
    path = out / "report.html"
    path.write_text(page)
    return path


def _sheets(sites: list[Path]) -> list[str]:
    return [f"<h3>{html.escape(s.name)}</h3>{_image((s / 'contact_sheet.png').read_bytes())}" for s in sites]


def _image(png: bytes) -> str:
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def _png(figure: Any) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


NAMES = {
    "untrained": "untrained",
    "single_site_mean": "one site alone (mean)",
    "pooled": "pooled",
    "federated": "federated",
}


def _table(summary: dict[str, Any]) -> str:
    head = "".join(f"<th>{m.replace('_', ' ')}</th>" for m in compare.METHODS)
    rows = "".join(
        f"<tr><td>{NAMES[g]}</td>"
        + "".join(
            f"<td>{100 * summary[m][g]:.1f} ± {100 * summary[m]['spread'][g]:.1f} %</td>"
            for m in compare.METHODS
        )
        + "</tr>"
        for g in compare.GROUPS
    )
    cell = f"<td>{100 * summary['chance']:.1f} %</td>"
    return (
        f"<table><tr><th></th>{head}</tr>{rows}<tr><td>chance</td>{cell * len(compare.METHODS)}</tr></table>"
    )


def _bars(summary: dict[str, Any]) -> bytes:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3.6))
    width = 0.2
    for k, (group, colour) in enumerate(zip(compare.GROUPS, (GREY, ORANGE, GREEN, BLUE), strict=True)):
        place = np.arange(len(compare.METHODS)) + (k - 1.5) * width
        axes.bar(
            place,
            [100 * summary[m][group] for m in compare.METHODS],
            width,
            label=NAMES[group],
            color=colour,
            yerr=[100 * summary[m]["spread"][group] for m in compare.METHODS],
            capsize=3,
        )
    axes.axhline(100 * summary["chance"], color="black", linestyle=":", linewidth=1, label="chance")
    axes.set_xticks(range(len(compare.METHODS)), [m.replace("_", " ") for m in compare.METHODS])
    axes.set(ylabel="accuracy on held-out people, %", ylim=(0, 105))
    axes.legend(ncols=5, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _confusions(results: list[dict[str, Any]], classes: list[str]) -> bytes:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4))
    federated = [r for r in results if r["who"] == "federated" and r["classes"] == classes]
    for axis, method in zip(axes, ("zero_shot", "linear_probe"), strict=True):
        counts = np.sum([r["confusion"][method] for r in federated], axis=0)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*counts.shape):
            axis.text(
                j,
                i,
                counts[i, j],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.5 else "black",
            )
        axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axis.set_yticks(range(len(classes)), classes)
        axis.set(xlabel="answer", ylabel="true expression", title=method.replace("_", " "))
    figure.tight_layout()
    return _png(figure)


def _losses(log: list[dict[str, Any]]) -> bytes:
    import matplotlib.pyplot as plt

    parts = ("loss", "alignment", "decorrelation", "redundancy")
    figure, axes = plt.subplots(1, len(parts), figsize=(12, 2.8))
    rounds = [r["round"] for r in log]
    for axis, part in zip(axes, parts, strict=True):
        for site in sorted({s["site"] for r in log for s in r["sites"]}):
            points = [(r["round"], s[part]) for r in log for s in r["sites"] if s["site"] == site]
            axis.plot(*zip(*points, strict=True), color=GREY, linewidth=0.8)
        axis.plot(
            rounds,
            [r["losses"].get(part, np.nan) for r in log],
            color=BLUE,
            linewidth=2,
            marker="o",
            markersize=3,
        )
        axis.set(title=part + (" (above its floor)" if part == "alignment" else ""), xlabel="round")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _png(figure)


def _outboxes(sites: list[Path], summary: dict[str, Any]) -> str:
    rows = []
    for site in sites:
        sent = list(csv.DictReader((site / "outbox.csv").read_text().splitlines()))
        good = [row for row in sent if not row["what_was_sent"].startswith("error")]
        total = sum(int(row["bytes"]) for row in sent)
        rows.append(
            f"<tr><td>{html.escape(site.name)}</td><td>{len(good)}</td><td>{len(sent) - len(good)}</td>"
            f"<td>{total / 1e6:.2f} MB</td><td>{total / max(1, len(good)) / 1e3:.0f} kB</td></tr>"
        )
    return (
        "<p>From each site's own <code>outbox.csv</code>: model weights and seven figures a round, nothing else. "
        f"Over the network, both directions, all sites: {summary['bytes_per_round'] / 1e6:.2f} MB a round.</p>"
        "<table><tr><th>site</th><th>messages</th><th>refusals</th><th>sent in all</th><th>a message</th></tr>"
        + "".join(rows)
        + "</table>"
    )


def _bundle(summary: dict[str, Any]) -> str:
    reading = summary["reading"]
    answer = reading["answer"]
    probabilities = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{100 * p:.1f} %</td></tr>"
        for name, p in sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    )
    times = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.1f} ms</td></tr>"
        for name, value in answer["milliseconds"].items()
    )
    return (
        f"<p>Largest difference between torch and ONNX Runtime: <b>{summary['parity_max_abs']:.1e}</b>. "
        f"One scan, from file to answer, without torch ({html.escape(summary['machine'])}); labelled <b>{reading['truth']}</b>, "
        f"read as <b>{html.escape(answer['expression'])}</b>:</p><table>{probabilities}</table><table>{times}</table>"
    )


def _made(summary: dict[str, Any]) -> str:
    rows = {
        "seconds": summary["seconds"],
        "peak memory of all processes": f"{summary['peak_rss_mib']} MiB",
        "machine": summary["machine"],
        "engine": summary["engine"],
        **summary["versions"],
        **summary["seconds_by_step"],
    }
    return (
        "<table>"
        + "".join(
            f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
        )
        + "</table>"
    )
