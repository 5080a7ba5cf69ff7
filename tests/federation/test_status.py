"""status.html and report.html: what a coordinator reads there is what log.jsonl says, whatever log.jsonl holds."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import status
from server.run_log import append

KNOWN = """html head meta link title style body main header span h1 h2 p progress ul li b bdi figure figcaption div svg path rect
table caption thead tbody tr th td dl dt dd footer time"""
TAGS = set(KNOWN.split())
VOID = {"meta", "link"}


class Page(HTMLParser):
    """A strict reading of our own pages: known tags, all closed, nothing that runs or loads."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.open, self.texts, self.rows, self.title = source, [], [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        assert not any(name.startswith("on") or name in ("src", "style") for name, _ in attrs)
        assert all(value == "data:," for name, value in attrs if name == "href")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect"):  # closed where they begin
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "rect")
        assert all(set(value or "") <= set("0123456789. MLhvlz-") for name, value in attrs if name == "d")

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if "title" in self.open:
            self.title += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def row(self, start: str, *, heads: str) -> dict[str, str]:
        """The row that begins with `start`, of the table whose heads hold `heads`, by head."""
        at = next(at for at, row in enumerate(self.rows) if heads in row)
        found = next(row for row in self.rows[at + 1 :] if row[0] == start)
        return dict(zip(self.rows[at], (re.sub(r"\s+", " ", cell).strip() for cell in found), strict=True))


def line(number: int, sites: dict[str, dict], **more: Any) -> dict[str, Any]:
    answers = [
        {"site": name, "num-examples": 100, "seconds": 60.0, "loss": 2.0, "bytes_received": 10**6, **figures}
        for name, figures in sites.items()
    ]
    losses = {"loss": 5.0 / number, "alignment": 4.0 / number, "critic": 0.0}
    return {
        "round": number,
        "averaged": True,
        "seconds": 120.0,
        "losses": losses,
        "sites": answers,
        "refused": [],
        "sites_asked": len(sites),
        "bytes_sent": 3 * 10**6,
        "bytes_received": 10**6 * len(sites),
        **more,
    }


def draw(folder: Path, *lines: dict[str, Any], rounds: int = 12, ended: bool = False) -> Page:
    for record in lines:
        append(folder / "log.jsonl", record)
    status.write(folder, rounds=rounds, ended=ended)
    return Page((folder / "status.html").read_text())


def story() -> list[dict[str, Any]]:
    """12 rounds of 4 sites: west is late in 3 and 8-9, north is away in 4-6, east sends NaN in 5, and 5 is lost."""
    lines = []
    for number in range(1, 13):
        names = ["east", "north", "south", "west"]
        late = ["west"] if number in (3, 8, 9) else []
        refused = [{"site": "west", "reason": "no answer within 600 s"}] if late else []
        if number == 5:
            refused = [
                {"site": site, "reason": "array 'a' holds NaN or infinity"} for site in ("east", "south")
            ]
        out = {*late, *({"north"} if number in (4, 5, 6) else {}), *(item["site"] for item in refused)}
        sites = {name: {"loss": 9.0 / number, "bytes_sent": 3 * 10**6} for name in names if name not in out}
        sites.get("west", {})["seconds"] = 400.0
        asked = len(sites) + len(refused)
        more = {"late": late, "refused": refused, "averaged": number != 5, "sites_asked": asked}
        lines.append(line(number, sites, **more))
    return lines


def test_a_running_page_says_where_the_run_stands(tmp_path: Path) -> None:
    page = draw(tmp_path, *story()[:9])
    assert page.title == "▶ Running: Round 9 of 12 done"
    assert "3 of 4 sites answered in the last round" in page.text
    assert "About 6 min to go: expected end" in page.text  # 3 rounds of 120 s
    east = page.row("east", heads="Captures")
    assert east["Latest round"] == "✓ answered" and east["Captures"] == "100" and east["Loss"] == "1"
    assert east["From it"] == "1.0 MB" and east["To it"] == "3.0 MB" and east["Last answer in round"] == "9"
    assert east["Left out or late"] == "once, in round 5: array 'a' holds NaN or infinity"
    west = page.row("west", heads="Captures")
    assert west["Latest round"] == "◷ too late" and west["Last answer in round"] == "7"
    assert west["Left out or late"] == "3 times, last in round 9: no answer within 600 s"
    assert page.row("5", heads="Outcome")["Outcome"] == "✗ lost"


def test_what_went_wrong_is_said_in_words_the_latest_first(tmp_path: Path) -> None:
    text = draw(tmp_path, *story()[:9]).text
    said = [
        "Now: west was ◷ too late in rounds 3, 8–9: no answer within 600 s.",
        "Now: west is slow: 400 s a round, the middle site 60 s.",
        "Earlier: north was – not asked in rounds 4–6.",
        "Earlier: round 5 was lost: 1 of 3 sites gave a good answer, too few to average.",
        "Earlier: east was ✗ left out in round 5: array 'a' holds NaN or infinity.",
    ]
    assert [text.index(sentence) for sentence in said] == sorted(text.index(sentence) for sentence in said)


def test_it_reloads_itself_until_it_ends_and_then_becomes_the_report(tmp_path: Path) -> None:
    running = draw(tmp_path, *story()[:9])
    assert '<meta http-equiv="refresh" content="10">' in running.source and "Totals" not in running.text
    assert not (tmp_path / "report.html").exists()
    ended = draw(tmp_path, *story()[9:], ended=True)
    assert "refresh" not in ended.source and ended.title == "✓ Finished: All 12 rounds done"
    assert (tmp_path / "report.html").read_text() == ended.source
    assert "Rounds averaged11" in ended.text and "Rounds lost1 (round 5)" in ended.text
    assert "Time in rounds24 min" in ended.text and "Sent to the sites36.0 MB" in ended.text
    north = ended.row("north", heads="Of all rounds")
    assert (north["Answered"], north["Not asked"], north["Of all rounds"]) == ("9", "3", "75 %")
    assert north["Time of training"] == "9 min"
    assert (north["From it"], north["To it"]) == ("9.0 MB", "27.0 MB")


@pytest.mark.parametrize(
    ("lines", "ended", "title"),
    [
        ([], False, "◷ Starting: Round 1 of 12"),
        ([], True, "✗ Ended without a result: 0 of 12 rounds"),
        (story()[:3], True, "✗ Ended early: 3 of 12 rounds"),
        (story()[:5], False, "▶ Running, but the last round was lost: Round 5 of 12 done"),
        ([line(12, {}, averaged=False)], True, "✗ Ended without a result: All 12 rounds done"),
    ],
)
def test_every_state_has_its_title(tmp_path: Path, lines: list[dict], ended: bool, title: str) -> None:
    assert draw(tmp_path, *lines, ended=ended).title == title


def test_without_trouble_it_says_so_and_parts_that_are_off_are_not_drawn(tmp_path: Path) -> None:
    page = draw(tmp_path, line(1, {"a": {}, "b": {}}), line(2, {"a": {}, "b": {}}))
    assert "Nothing: every site answered in every round" in page.text
    assert "not drawn: critic" in page.text and page.source.count("<figure") == 2


def test_colour_never_stands_alone_and_tables_have_heads(tmp_path: Path) -> None:
    page = draw(tmp_path, *story(), ended=True)
    for word in ("answered", "left out", "too late", "not asked"):
        assert word in page.text
    assert page.source.count("<caption>") == page.source.count("<table>") == 3
    assert page.source.count('scope="row"') == 4 + 12 + 4
    assert all("aria-label" in svg or "aria-hidden" in svg for svg in re.findall("<svg[^>]*>", page.source))
    assert "prefers-color-scheme: dark" in page.source and '<html lang="en">' in page.source


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></table><meta http-equiv=refresh content='0;url=http://evil.example'>",
    "&lt;b&gt;",
    "{0} %s {site}",
    "",
    "a" * 5000,
    "safe\u202egnihton",
    "zero\u200bwidth\x00\x1b[31m\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_or_reason_is_only_text(tmp_path: Path, text: str) -> None:
    refused = [{"site": text + "2", "reason": text}]
    lost = {"averaged": False, "refused": refused, "late": [text + "3"], "losses": {"loss": 1.0, text: 2.0}}
    page = draw(tmp_path, line(1, {text: {}, "b": {}}), line(2, {text: {}}, **lost), ended=True)
    for sign in "\u202e\u200b\x00\x1b":
        assert sign not in page.source
    if text.isprintable():
        assert text[: status.LONGEST] in page.text


def test_a_page_cannot_call_out_even_if_escaping_failed(tmp_path: Path) -> None:
    source = draw(tmp_path, *story()).source
    assert (
        "default-src 'none'" in source
        and "http:" not in source
        and "https:" not in source
        and "<script" not in source
    )


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "averaged",
    "seconds",
    "losses",
    "sites",
    "refused",
    "late",
    "sites_asked",
    "bytes_sent",
    "bytes_received",
)
SITE = st.fixed_dictionaries(
    {"site": st.sampled_from(["a", "b"]) | ANYTHING},
    optional=dict.fromkeys(
        ("loss", "num-examples", "seconds", "reason", "weight", "update_norm", "bytes_sent"), ANYTHING
    ),
)
RECORD = st.fixed_dictionaries(
    {"round": st.integers(0, 5) | ANYTHING},
    optional={name: ANYTHING | st.lists(SITE, max_size=3) for name in FIELDS},
)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORD | ANYTHING, max_size=5), st.booleans(), st.integers(-1, 10))
def test_any_log_makes_a_sound_page(lines: list[Any], ended: bool, rounds: int) -> None:
    seen = status.Status(Path("nowhere"))
    for record in lines:
        seen._take(json.dumps(record).encode())
    page = Page(seen.page(rounds=rounds, ended=ended))
    page.source.encode()
    assert "nan" not in page.title.lower()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 1e300, -(10**400), True, "7", None, [1], {"a": 1}], ids=repr
)
def test_a_figure_that_is_none_is_a_dash(tmp_path: Path, value: Any) -> None:
    figures = dict.fromkeys(("loss", "num-examples", "seconds", "bytes_received"), value)
    page = draw(tmp_path, line(1, {"a": figures}, seconds=value, losses={"loss": value}, sites_asked=value))
    row = page.row("a", heads="Captures")
    assert (row["Loss"], row["Captures"], row["Seconds"], row["From it"]) == ("–", "–", "–", "–")
    assert "1 of 1 sites answered" in page.text and "to go" not in page.text


def test_a_bare_round_is_enough(tmp_path: Path) -> None:
    assert draw(tmp_path, {"round": 3}).title == "▶ Running, but the last round was lost: Round 3 of 12 done"


def test_damaged_lines_are_counted_and_a_line_in_the_making_waits(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append(log, line(1, {"a": {}}))
    with log.open("ab") as file:
        file.write(b'{"round": 2, "si\n\xff\xfe\n[]\n7\n{"round": true}\n' + b"[" * 100_000 + b"\n")
    append(log, line(3, {"a": {}}))
    whole = json.dumps(line(4, {"a": {}})).encode()
    with log.open("ab") as file:
        file.write(whole[:50])
    run = status.Status(tmp_path)
    assert [entry.number for entry in run.read()] == [1, 3] and run.damaged == 6
    assert "missing here: 6" in Page(run.page(rounds=9, ended=False)).text
    with log.open("ab") as file:
        file.write(whole[50:] + b"\n")
    assert [entry.number for entry in run.read()] == [1, 3, 4]


def test_only_new_lines_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, parsed = status.Status(tmp_path), []
    monkeypatch.setattr(status, "parse", lambda data, parse=status.parse: parsed.append(data) or parse(data))
    for number in range(1, 6):
        append(tmp_path / "log.jsonl", line(number, {"a": {}}))
        run.write(rounds=5, ended=False)
    assert len(parsed) == 5
    once = Page(status.Status(tmp_path).page(rounds=5, ended=False))
    assert Page(run.page(rounds=5, ended=False)).source == once.source


def test_rounds_that_a_resume_did_again_count_once(tmp_path: Path) -> None:
    lines = [
        line(1, {"a": {}}),
        line(2, {"a": {}, "gone": {}}),
        line(3, {"a": {}}),
        line(2, {"a": {"loss": 7.0}}),
    ]
    page = draw(tmp_path, *lines)
    assert (
        "Round 2 of 12" in page.title
        and "gone" not in page.text
        and page.row("a", heads="Captures")["Loss"] == "7"
    )
    run = status.Status(tmp_path)
    run.read()
    (tmp_path / "log.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert [entry.number for entry in run.read()] == [1]


def test_a_page_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status.html").mkdir()
    append(tmp_path / "log.jsonl", line(1, {"a": {}}))
    status.write(tmp_path, rounds=2, ended=False)
    assert "status.html is not up to date" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "status.html"]


def test_a_site_that_is_drawn_now_and_then_is_no_trouble(tmp_path: Path) -> None:
    every_other = [line(n, {"a" if n % 2 else "b": {}, "c" if n % 4 < 2 else "d": {}}) for n in range(1, 13)]
    assert "every site answered in every round" in draw(tmp_path, *every_other).text


def test_one_reason_with_changing_figures_is_one_sentence(tmp_path: Path) -> None:
    def norm(n: int) -> list[dict]:
        return [{"site": "b", "reason": f"norm {n * 1.5e3:g} is above 3 times the median"}]

    text = draw(tmp_path, *(line(n, {"a": {}}, refused=norm(n)) for n in range(1, 5))).text
    assert text.count("b was ✗ left out") == 1 and "in rounds 1–4: norm 6000 is above" in text


def test_a_long_list_of_troubles_is_cut_and_says_so(tmp_path: Path) -> None:
    refused = [{"site": f"s{k}", "reason": "NaN"} for k in range(30)]
    assert "and 18 older entries" in draw(tmp_path, line(1, {"a": {}}, refused=refused)).text


def test_codes_of_flower_are_said_in_words(tmp_path: Path) -> None:
    refused = [{"site": "b", "reason": "Flower error code 5"}]
    assert (
        "left out in round 1: the connection to it was lost"
        in draw(tmp_path, line(1, {}, refused=refused)).text
    )


def test_the_page_never_shows_what_the_log_does_not_say(tmp_path: Path) -> None:
    assert str(tmp_path) not in draw(tmp_path, *story(), ended=True).source
