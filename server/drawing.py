"""What the page of `server.report` is made of: its style, curves, strips and tables as SVG and HTML, and how figures are told."""

import html
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby

# Mark of `server.status` -> what stands for it, from x = {0} to {1}: a bar, a cross, a low block, a line on the ground.
SHAPES = {
    ord("a"): "M{0} 0h4v12h-4z",
    ord("l"): "M{0} 3l4 6M{1} 3l-4 6",
    ord("o"): "M{0} 8h4v4h-4z",
    ord("-"): "M{0} 11h4v1h-4z",
}
STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #18222d; --soft: #566270; --line: #d5dce4; --card: #f4f7fa;
  --blue: #1d5fa9; --good: #17723f; --warn: #855600; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #11161c; --ink: #e7ecf1; --soft: #a5b1bd; --line: #323d49;
  --card: #1a222b; --blue: #82b8f2; --good: #67cb91; --warn: #eabb5c; --bad: #ff938a; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--ink); background: var(--back); }
h1 { font-size: clamp(1.8rem, 5vw, 2.8rem); line-height: 1.15; margin: .5rem 0; } h2 { margin: 2.4rem 0 .6rem; }
.state { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: 1rem 1.4rem 1.2rem; }
.state p { font-size: 1.2rem; margin: .3rem 0; } progress { width: 100%; height: 1rem; accent-color: var(--blue); }
.badge { display: inline-block; font-weight: 600; border: 2px solid; border-radius: 2rem; padding: 0 .8rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .soft { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; min-width: 0; }
figure { display: flex; flex-direction: column; } figure.wide { margin-bottom: 1rem; }
figure p { margin: .2rem 0 0; } figcaption span { color: var(--soft); display: block; }
.plot { margin-top: auto; padding-top: .5rem; }
.plot { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .5rem; font-size: .8rem; color: var(--soft); }
.plot svg { grid-area: 1 / 2 / 3 / 4; width: 100%; height: 5rem; border-left: 1px solid; border-bottom: 1px solid; }
.wide .plot svg { height: 11rem; } .plot .top { grid-area: 1 / 1; } .plot .low { grid-area: 2 / 1; align-self: end; }
.plot .from { grid-area: 3 / 2; } .plot .to { grid-area: 3 / 3; }
svg { overflow: visible; vertical-align: middle; } svg path { fill: none; stroke: currentColor; stroke-width: 2;
  stroke-linecap: round; stroke-linejoin: round; vector-effect: non-scaling-stroke; } svg .fill { fill: currentColor; stroke: none; }
.curve { color: var(--blue); } .lost { color: var(--bad); opacity: .22; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; } thead th { border-bottom: 2px solid var(--line); }
td, th { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; } thead th { white-space: normal; vertical-align: bottom; }
.words { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; } .words:last-child { min-width: 12rem; }
th.words:first-child { min-width: 6rem; }
li { margin: .4rem 0; overflow-wrap: anywhere; } dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.5rem; }
caption, td, th { font-size: .92rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2.5rem; } .facts dd { margin: 0; font-size: 1.3rem; }
footer { margin-top: 3rem; color: var(--soft); }
"""


def path(values: Sequence[float | None], *, width: float, height: float, points: int) -> str:
    """An SVG path through the values, each in the middle of its round; broken where there is none.

    Of more than `points`, the lowest and the highest of every stretch are drawn, so that no spike is hidden.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = height / (high - low) if high > low else 0.0
    stretch = math.ceil(len(values) / (points // 2)) if len(values) > points else 1
    commands, pen = [], "M"
    for start in range(0, len(values), stretch):
        some = [
            (value, at)
            for at, value in enumerate(values[start : start + stretch], start)
            if value is not None
        ]
        for value, at in sorted({min(some), max(some)}, key=lambda pair: pair[1]) if some else []:
            x, y = (at + 0.5) * width / len(values), (high - value) * scale if scale else height / 2
            # `h0` makes a lone point a dot.
            commands.append(f"{pen}{x:.1f} {y:.1f}" + ("h0" if pen == "M" else ""))
            pen = "L"
        if not some:
            pen = "M"
    return "".join(commands)


def strip(marks: bytes, *, states: Mapping[int, tuple[str, ...]]) -> str:
    """Rounds as small signs, one for each mark, that differ in shape and in colour (the first word of its state)."""
    paths = []
    for mark, shape in SHAPES.items():
        drawn = "".join(shape.format(6 * at, 6 * at + 4) for at, found in enumerate(marks) if found == mark)
        kind = states[mark][0] + (" fill" if shape.endswith("z") else "")
        paths += [f'<path class="{kind}" d="{drawn}"/>'] if drawn else []
    width = max(6 * len(marks), 6)
    return (
        f'<svg width="{width}" height="12" viewBox="0 0 {width} 12" aria-hidden="true">{"".join(paths)}</svg>'
    )


def table(
    title: str, caption: str, heads: list[str], rows: list[list[str]], *, words: tuple[int, ...]
) -> str:
    """words: positions of the columns that hold words and may wrap. The first cell of a row is its header."""

    def style(at: int) -> str:
        return ' class="words"' if at in words else ""

    head = "".join(f'<th scope="col"{style(at)}>{name}</th>' for at, name in enumerate(heads))
    body = "".join(
        f'<tr><th scope="row"{style(0)}>{row[0]}</th>'
        + "".join(f"<td{style(at)}>{cell}</td>" for at, cell in enumerate(row[1:], 1))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<h2>{title}</h2>\n<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """Rising numbers as stretches without a gap."""
    stretches = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[number for _, number in stretch] for _, stretch in stretches]


def ranges(numbers: Sequence[int]) -> str:
    """[3, 5, 6, 7] -> `rounds 3, 5-7`; of many stretches the last."""
    stretches = runs(numbers)
    told = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in stretches[-6:])
    more = (
        f"{len(numbers)} rounds, the last of them "
        if len(stretches) > 6
        else "rounds "
        if len(numbers) > 1
        else "round "
    )
    return more + told


def escape(text: str) -> str:
    """Safe anywhere in HTML: nothing that could end a text or an attribute, turn the line round or be unseen."""
    return html.escape("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"


def size(count: float | None) -> str:
    """Bytes as MB, or in the unit that leaves one to three digits before the point."""
    if count is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    whole = round(seconds) if seconds < 600 else 60 * round(seconds / 60)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    units = ((days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((at for at, (count, _) in enumerate(units) if count), 3)
    told = [f"{count} {unit}" for count, unit in units[first : first + 2] if count]
    return " ".join(told) or "0 s"


def clock(seconds: float) -> str:
    """Unix time in the coordinator's own zone, named."""
    moment = datetime.fromtimestamp(seconds, UTC).astimezone()
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%d %b %Y, %H:%M} {escape(moment.tzname() or "")}</time>'
