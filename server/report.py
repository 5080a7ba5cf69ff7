"""The page that `server.status` writes: one HTML file for people who do not program, with no script and no outside link.

Every text that comes from the log goes through `drawing.escape`, every figure through a format below.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from server.drawing import (
    STYLE,
    clock,
    duration,
    escape,
    number,
    path,
    percent,
    ranges,
    runs,
    size,
    strip,
    table,
    whole,
)

if TYPE_CHECKING:
    from server.status import Round, Site, Trouble

REFRESH = 10  # seconds
PARTS = 24  # of the loss that are drawn
POINTS = 160  # of a curve at most
SPARK = 40  # of a site's curve, and rounds of its strip
ROWS = 15  # rounds in the table while the run goes on
ITEMS = 12  # troubles in the list while the run goes on; REPORT_ITEMS at its end
REPORT_ITEMS = 200
PACE = 5  # rounds that the expected end is told from
FAR = 3e8  # seconds (ten years): no end is told beyond

MEANINGS = {
    "loss": "what training makes small: the parts below, each times its weight",
    "decorrelation": "pictures that show the same should agree, and no two features say the same",
    "alignment": "a picture and its sentence should match",
    "redundancy": "features of pictures and sentences should not repeat each other",
    "redundancy_skipped": "share of the steps in which redundancy could not be told",
    "temporal": "the frames of a film should be in order",
    "sibling": "the loss of a related method that the study adds",
    "critic": "a sentence should be told from one with a wrong word",
}
GOOD = '<span class="good">✓ averaged</span>'
LOST = '<span class="bad">✗ lost</span>'
# mark of `server.status` -> (class, sign, word, what it means, what to do)
STATES = {
    ord("a"): ("good", "✓", "answered", "Its answer went into the average.", ""),
    ord("l"): (
        "bad",
        "✗",
        "left out",
        "Its answer was not used, or it had none to give; the reason is beside it.",
        "The site's own site.log tells more.",
    ),
    ord("o"): (
        "warn",
        "◷",
        "too late",
        "No answer before the deadline: slow, switched off or cut off.",
        "Is it running, and is its line up? If it is only slow: a longer federation.round-timeout.",
    ),
    ord("-"): (
        "soft",
        "–",
        "not asked",
        "It was not connected, or not drawn for the round.",
        "Is its SuperNode running?",
    ),
    ord(" "): ("soft", "", "not seen yet", "Before its first round.", ""),
}
FLOWER = {  # error codes of Flower that a person can act on
    "Flower error code 1": "the program could not be started there",
    "Flower error code 2": "the program stopped there with an error",
    "Flower error code 3": "the question was lost on the way",
    "Flower error code 4": "the answer was lost on the way",
    "Flower error code 5": "the connection to it was lost",
    "Flower error code 8": "the program crashed there",
}
WORDS = """
<dt>Round</dt><dd>The model goes to the sites, each trains it on its own captures, the answers are averaged. Scans stay where
they are: only numbers of the model and a few figures travel.</dd>
<dt class="bad">✗ lost</dt><dd>A round with too few good answers to average (federation.min-sites). It is a red band in the curves.
Nothing breaks: the model stays as it was, and the next round starts from it.</dd>
<dt>Loss</dt><dd>How far the model is from what it should learn; lower is better. The curve of a site is drawn on a scale of its own:
compare the shapes, and the figures beside them.</dd>
<dt>Captures</dt><dd>Scans or frames that the site trained on. Sites with more of them count more in the average.</dd>
<dt>From it, to it</dt><dd>What travelled between the site and the coordinator.</dd>
<dt>Size of change</dt><dd>How far the site moved the model (L2 norm). One far above the others is worth a question.</dd>
"""


def page(
    log: "Sequence[Round]",
    sites: "Sequence[Site]",
    troubles: "Sequence[Trouble]",
    *,
    planned: int,
    ended: bool,
    written: float,
    damaged: int,
) -> str:
    """The whole page. written: Unix time of the latest round; damaged: lines of the log that could not be read."""
    planned = max(planned, log[-1].number if log else 0)
    title, state = _state(log, planned=planned, ended=ended, written=written)
    body = [
        state,
        _totals(log, sites) if ended and log else "",
        _troubles(troubles, ended=ended),
        _curves(log),
        _sites(log, sites),
        _rounds(log, limit=len(log) if ended else ROWS),
        _legend(),
        _footer(log, ended=ended, written=written, damaged=damaged),
    ]
    refresh = "" if ended else f'<meta http-equiv="refresh" content="{REFRESH}">\n'
    # The policy is the second lock behind the escaping: whatever got in could neither run nor call out.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'\">\n"
        f'{refresh}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{chr(10).join(part for part in body if part)}\n</main>\n</body>\n</html>\n"
    )


def _state(log: "Sequence[Round]", *, planned: int, ended: bool, written: float) -> tuple[str, str]:
    done = log[-1].number if log else 0
    kept = sum(entry.averaged for entry in log)
    lines = []
    if log:
        last = log[-1]
        lines.append(f"{len(last.answers)} of {last.asked} sites answered in the last round.")
    if ended:
        whole = done >= planned and kept > 0
        badge = (
            ("good", "✓ Finished")
            if whole
            else ("bad", "✗ Ended early" if kept else "✗ Ended without a result")
        )
        head = f"{done} of {planned} rounds" if done < planned else f"All {planned} rounds done"
        lines.append(f"{kept} of {done} rounds were averaged. The latest was finished {clock(written)}.")
    elif not log:
        badge, head = ("warn", "◷ Starting"), f"Round 1 of {planned}"
        lines.append("Waiting for the answers of the first round.")
    else:
        badge = (
            ("good", "▶ Running") if log[-1].averaged else ("bad", "▶ Running, but the last round was lost")
        )
        head = f"Round {done} of {planned} done"
        left = _left(log, planned)
        if done < planned and left is not None:
            lines.append(f"About {duration(left)} to go: expected end {clock(written + left)}.")
    bar = f'<progress max="{max(planned, 1)}" value="{done}">{done} of {planned}</progress>'
    text = "".join(f"<p>{line}</p>" for line in lines)
    title = f"{badge[1]}: {head}"
    return (
        title,
        f'<header class="state"><span class="badge {badge[0]}">{badge[1]}</span><h1>{head}</h1>{text}{bar}</header>',
    )


def _left(log: "Sequence[Round]", planned: int) -> float | None:
    """Seconds to the expected end; None where nobody can tell."""
    known = [entry.seconds for entry in log[-PACE:] if entry.seconds is not None]
    left = median(known) * (planned - log[-1].number) if known else math.inf
    return left if 0 <= left < FAR else None


def _troubles(troubles: "Sequence[Trouble]", *, ended: bool) -> str:
    limit = REPORT_ITEMS if ended else ITEMS
    items = [f"<li>{_sentence(trouble, ended=ended)}</li>" for trouble in troubles[:limit]]
    if len(troubles) > limit:
        items.append(f"<li>and {len(troubles) - limit} older entries; log.jsonl has them all</li>")
    fine = '<p class="good">✓ Nothing: every site answered in every round.</p>'
    return (
        f"<h2>What needs attention</h2>\n<ul>{''.join(items)}</ul>"
        if items
        else f"<h2>What needs attention</h2>\n{fine}"
    )


def _sentence(trouble: "Trouble", *, ended: bool) -> str:
    latest = f'<b class="bad">{"At the end" if ended else "Now"}:</b>'
    now = latest if trouble.ongoing else '<span class="soft">Earlier:</span>'
    when, site = ranges(trouble.rounds), f"<bdi><b>{escape(trouble.site)}</b></bdi>"
    reason = f": {_reason(trouble.reason)}" if trouble.reason else ""
    if trouble.mark == ord(" "):
        verb = "were" if len(trouble.rounds) > 1 else "was"
        return f"{now} {when} {verb} lost{reason}, too few to average. The model stayed as it was."
    if trouble.mark == ord("a"):
        return f"{now} {site} is slow: {_reason(trouble.reason)}. The others wait for it."
    style, sign, word, _, advice = STATES[trouble.mark]
    return (
        f'{now} {site} was <span class="{style}">{sign} {word}</span> in {when}{reason}. '
        f'<span class="soft">{advice}</span>'
    )


def _curves(log: "Sequence[Round]") -> str:
    parts: dict[str, list[float | None]] = {}
    for name in sorted({name for entry in log for name in entry.losses}, key=_part_order)[:PARTS]:
        parts[name] = [entry.losses.get(name) for entry in log]
    idle = [name for name, values in parts.items() if not any(values)]
    charts = {name: _chart(name, values, log) for name, values in parts.items() if name not in idle}
    if not charts:
        return '<h2>How training goes</h2>\n<p class="soft">No site has told a loss yet.</p>'
    band = " A red band is a round that was lost." if not all(entry.averaged for entry in log) else ""
    note = f'<p class="soft">Zero in all rounds, so not drawn: {escape(", ".join(idle))}.</p>' if idle else ""
    return (
        "<h2>How training goes</h2>\n<p>Mean over the sites that answered, weighted as in the average. Lower is better; "
        f"a curve that rises for several rounds needs a look.{band}</p>\n"
        f'{charts.pop("loss", "")}<div class="charts">{"".join(charts.values())}</div>{note}'
    )


def _part_order(name: str) -> tuple[int, str]:
    return (list(MEANINGS).index(name) if name in MEANINGS else len(MEANINGS), name)


def _chart(name: str, values: list[float | None], log: "Sequence[Round]") -> str:
    known = [(value, entry.number) for value, entry in zip(values, log, strict=True) if value is not None]
    low, high = min(known), max(known)
    told = (
        f"first {number(known[0][0])}, now {number(known[-1][0])}, lowest {number(low[0])} (round {low[1]})"
    )
    lost = [position for position, entry in enumerate(log) if not entry.averaged]
    step = 1000 / len(log)
    bands = "".join(
        f'<rect class="fill lost" x="{run[0] * step:.1f}" y="0" width="{len(run) * step:.1f}" height="100"/>'
        for run in runs(lost)
    )
    curve = path(values, width=1000, height=100, points=POINTS)
    return (
        f"<figure{' class=wide' if name == 'loss' else ''}><figcaption><b>{escape(name)}</b>"
        f"<span>{MEANINGS.get(name, 'a part of the loss')}</span></figcaption>"
        f'<div class="plot"><span class="top">{number(high[0])}</span><span class="low">{number(low[0])}</span>'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{escape(name)} by round: {told}">'
        f'{bands}<path class="curve" d="{curve}"/></svg>'
        f'<span class="from">round {log[0].number}</span><span class="to">round {log[-1].number}</span></div>'
        f"<p>{told}</p></figure>"
    )


def _sites(log: "Sequence[Round]", sites: "Sequence[Site]") -> str:
    shares = any(site.latest.weight is not None for site in sites)
    norms = any(site.latest.norm is not None for site in sites)
    heads = [
        "Site",
        "Latest round",
        f"Answers: last {min(len(log), SPARK)} rounds, and in all",
        "Last answer in round",
    ]
    heads += ["Loss", "Captures", "Seconds", "From it", "To it"]
    heads += ["Share of average"] * shares + ["Size of change"] * norms + ["Left out or late"]
    rows = [_site(log, site, shares=shares, norms=norms) for site in sites]
    told = "By registered name. Loss, captures, seconds and bytes are those of the site's last answer."
    return table("The sites", told, heads, rows, words=(0, 1, len(heads) - 1)) if rows else ""


def _site(log: "Sequence[Round]", site: "Site", *, shares: bool, norms: bool) -> list[str]:
    style, sign, word, *_ = STATES[site.marks[-1]]
    last = site.marks.rfind(b"a")
    known = [value for value in site.losses if value is not None]
    answer, spark, failures = site.latest, "", "never"
    if known:
        told = f"first {number(known[0])}, now {number(known[-1])}, lowest {number(min(known))}"
        curve = path(site.losses, width=90, height=22, points=SPARK)
        spark = (
            f' <svg class="curve" width="90" height="26" viewBox="0 -2 90 26" role="img" '
            f'aria-label="loss of {escape(site.name)}: {told}"><path d="{curve}"/></svg>'
        )
    if site.failures:
        position, _, reason = site.failures[-1]
        times = f"{len(site.failures)} times, last" if len(site.failures) > 1 else "once,"
        failures = f"{times} in round {log[position].number}: {_reason(reason) or 'no reason given'}"
    taken_part = len(site.marks) - site.marks.count(b" ")
    return [
        f"<bdi>{escape(site.name)}</bdi>",
        f'<span class="{style}">{sign} {word}</span>',
        f"{strip(bytes(site.marks[-SPARK:]), states=STATES)} {site.marks.count(b'a')} of {taken_part}",
        str(log[last].number) if last >= 0 else "none",
        number(answer.loss) + spark,
        whole(answer.captures),
        number(answer.seconds),
        size(answer.received),
        size(answer.sent),
        *[percent(answer.weight)] * shares,
        *[number(answer.norm)] * norms,
        failures,
    ]


def _rounds(log: "Sequence[Round]", *, limit: int) -> str:
    heads = ["Round", "Outcome", "Sites that answered", "Loss", "Seconds", "From the sites", "To the sites"]
    rows = [
        [
            str(entry.number),
            GOOD if entry.averaged else LOST,
            f"{len(entry.answers)} of {entry.asked}",
            number(entry.losses.get("loss")),
            number(entry.seconds),
            size(entry.received),
            size(entry.sent),
        ]
        for entry in reversed(log[-limit:])
    ]
    told = "All rounds" if limit >= len(log) else f"The last {limit} rounds"
    return table("The rounds", f"{told}, the latest first.", heads, rows, words=(1,)) if rows else ""


def _totals(log: "Sequence[Round]", sites: "Sequence[Site]") -> str:
    lost = [entry.number for entry in log if not entry.averaged]
    facts = {
        "Rounds averaged": str(len(log) - len(lost)),
        "Rounds lost": f"{len(lost)} ({ranges(lost)})" if lost else "none",
        "Time in rounds": duration(sum(entry.seconds or 0 for entry in log)),
        "Received from the sites": size(sum(entry.received or 0 for entry in log)),
        "Sent to the sites": size(sum(entry.sent or 0 for entry in log)),
    }
    heads = ["Site", "Answered", "Left out", "Too late", "Not asked", "Of all rounds"]
    heads += ["Time of training", "From it", "To it"]
    rows = [
        [
            f"<bdi>{escape(site.name)}</bdi>",
            *(str(site.marks.count(mark)) for mark in b"alo-"),
            percent(site.marks.count(b"a") / len(log)),
            duration(site.seconds),
            size(site.received or None),
            size(site.sent or None),
        ]
        for site in sites
    ]
    told = "Rounds by what became of them, and sums over the answers of the run."
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    took_part = table("Who took part", told, heads, rows, words=(0,)) if rows else ""
    return f"<h2>Totals</h2>\n<dl class=facts>{listed}</dl>\n{took_part}"


def _legend() -> str:
    states = "".join(
        f'<dt class="{style}">{strip(bytes([mark]), states=STATES)} {sign} {word}</dt><dd>{meaning} {advice}</dd>'
        for mark, (style, sign, word, meaning, advice) in STATES.items()
        if mark != ord(" ")
    )
    return f"<h2>What the words mean</h2>\n<dl>{states}{WORDS}</dl>"


def _footer(log: "Sequence[Round]", *, ended: bool, written: float, damaged: int) -> str:
    lines = ["Made from log.jsonl in the folder of this page; loads nothing from elsewhere."]
    if not ended:
        pace = median([entry.seconds for entry in log[-PACE:] if entry.seconds is not None] or [FAR])
        patience = f"after {duration(max(3 * pace, 120))}" if pace < FAR else "for long"
        lines.append(
            f"As of {clock(written)}. The page is drawn anew after each round and loads itself every {REFRESH} seconds. "
            f"If this time is still the same {patience}, look at the coordinator's window: the run may have stopped."
        )
    if damaged:
        lines.append(f"Lines of log.jsonl that could not be read, and are missing here: {damaged}.")
    return f"<footer>{''.join(f'<p>{line}</p>' for line in lines)}</footer>"


def _reason(reason: str) -> str:
    return escape(FLOWER.get(reason, reason))
