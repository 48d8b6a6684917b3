"""The level graph as a page, in headless Chromium: what it shows, that it is safe, how it is used and how it looks.

Needs Chromium, its driver and selenium. Without them the tests that need them are skipped; with
``NLC_REQUIRE_BROWSER=1`` (``.ci/run`` sets it once it has installed them) they fail instead.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nlc import cli
from nlc.pipeline import Spec, load, loads, shipped
from nlc.tools.derivation import update_lines
from nlc.tools.page import html
from nlc.tools.page.build import build
from nlc.tools.page.model import Page

WIDTHS = ((390, 844), (1280, 800), (1920, 1080))
HOSTILE = "</script><img src=x onerror=alert(1)>&quot;<!--<script>\u2028${x}`"

TIMES = """
nlc: 1
system: times
context: tokens
doc: Levels of many rhythms.
hyper: {d: 8, n: 4, part: n / 2, hop: 6, era: 24}
inputs: {x: [d]}
let:
  k: l2norm(linear(x, n))
  v: linear(x, n)
levels:
  each:
    frequency: every token
    anchor: every part tokens
    memory: matrix(n, n)
    key: k
    value: v
    objective: 0.5 * sqnorm(each(key) - value)
    rule: gd(lr=0.5)
  early:
    frequency: every hop tokens
    phase: start
    memory: matrix(n, n)
    objective: 0.5 * sqnorm(early(last(k)) - last(v))
    rule: gd(lr=0.5)
  late:
    frequency: every hop tokens
    reset: every era tokens
    memory: matrix(n, n)
    objective: sum(0.5 * sqnorm(late(k) - v))
    rule: gd(lr=0.1)
output:
  y: linear(each(k) + early(k) + late(k))
"""


def many(members: int, behind: int) -> str:
    """A family of memories, and slower ones that read it: ``members + behind`` levels and the slow weights."""
    ids = ", ".join(map(str, range(members)))
    slower = "".join(
        f"""
  C_{i}:
    frequency: every {4 ** (i // 4 + 1)} tokens
    memory: matrix(n, n)
    objective: sum(0.5 * sqnorm(C_{i}(q) - S[{i * 7 % members}](q)))
    rule: gd(lr=0.1)"""
        for i in range(behind)
    )
    answers = [f"S[{i}](q)" for i in range(members)] + [f"C_{i}(q)" for i in range(behind)]
    return f"""
nlc: 1
system: many
context: tokens
hyper: {{d: 64, n: 16}}
inputs: {{x: [d]}}
let:
  q: l2norm(linear(x, n))
  beta: sigmoid(linear(x))
levels:
  S[i]:
    for: {{i: [{ids}]}}
    frequency: every token
    memory: matrix(n, n)
    key: l2norm(linear(x, n))
    value: linear(x, n)
    objective: 0.5 * sqnorm(S[i](key) - value)
    rule: gd(lr=beta){slower}
output:
  y: linear({" + ".join(answers)})
"""


# ---------------------------------------------------------------- without a browser


def data(text: str) -> Any:
    """What the page's script reads."""
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "hope.html"
    line = ["graph", "hope", "--optimizer", "m3", "--format", "html"]
    assert runner.invoke(cli.main, [*line, "-o", str(file)]).exit_code == 0
    printed = runner.invoke(cli.main, line)
    assert printed.exit_code == 0 and printed.stdout == file.read_text(encoding="utf-8")
    assert printed.stdout.startswith("<!doctype html>")


def test_a_page_is_the_same_bytes_in_every_process_and_needs_no_torch() -> None:
    script = (
        "import sys; from nlc.pipeline import load; "
        "text = load('titans').page(load('muon')); assert 'torch' not in sys.modules; "
        "sys.stdout.buffer.write(text.encode())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "01"
    }
    assert len(texts) == 1


def test_the_page_names_no_place_outside_itself() -> None:
    text = load("hope_attention").page(load("m3"))
    assert not re.search(r"""(?:src|href)\s*=|url\((?!#)|@import|\bfetch\(|XMLHttp""", text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


@functools.cache
def built(name: str) -> Page:
    return build(load(name), None)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_level_has_its_lines(name: str) -> None:
    """Every level that steps has lines of the generated file, among them one that names its state."""
    spec, page = load(name), built(name)
    assert [c.name for c in page.cards] == [
        n for level in spec.graph.graph["levels"] for n in level
    ]
    for card in page.cards:
        if card.name not in spec.updates:
            continue
        d = card.detail
        assert d.update == tuple(update_lines(spec.system, spec.updates[card.name]))
        assert d.derivation and d.notes and d.costs and d.spec_lines
        lines = page.files[d.code].lines
        runs = [lines[i - 1] for run in d.code_lines for i in range(run.first, run.last + 1)]
        names = {s.name.replace(".", "_") for s in spec.system.levels[card.name].states}
        keys = {f'"{s.name}"' for s in spec.system.levels[card.name].states}
        assert any(re.search(rf"\b{n}\b", line) for n in names for line in runs) or any(
            key in line for key in keys for line in runs
        )


def lines_of(name: str, level: str) -> list[str]:
    page = built(name)
    d = next(c.detail for c in page.cards if c.name == level)
    return [
        page.files[d.code].lines[i - 1].strip()
        for run in d.code_lines
        for i in range(run.first, run.last + 1)
    ]


def test_a_level_has_the_lines_that_it_alone_needs() -> None:
    mine = lines_of("m3", "M2")
    assert "M2 = M2 - beta3 * M2_grad  # gd(lr=β₃); line 44" in mine
    assert "M2_sum = M2_sum + g  # over every f steps; line 43" in mine
    assert "if t % f == 0:" in mine
    assert not any(line.startswith(("M1", "V ", "V_", "W")) for line in mine)
    mine = lines_of("hope", "C_2")
    assert any(line.startswith("C_2_value = ") for line in mine)
    assert any(line.startswith("C_W1 = C_W1 - ") for line in mine)  # in the method of all three
    assert not any("M_k" in line or line.startswith(("C_1_value", "C_3_value")) for line in mine)
    mine = lines_of("gated_delta_net", "S")
    assert any(line.startswith("S_write = ") for line in mine)
    assert not any(line.startswith(("S_q", "y", "q ")) for line in mine)


def test_lines_that_several_levels_share_say_so() -> None:
    page = built("hope")
    runs = next(c.detail.code_lines for c in page.cards if c.name == "C_1")
    assert {r.others for r in runs} == {(), ("C_2", "C_3")}


def test_spec_lines_are_the_block_of_the_level() -> None:
    page = built("m3")
    for name, last in (("M1", "rule: gd(lr=beta1)"), ("W", "rule: gd(lr=lr)")):
        d = next(c.detail for c in page.cards if c.name == name)
        (run,) = d.spec_lines
        lines = page.files[d.spec].lines[run.first - 1 : run.last]
        assert lines[0].strip() == f"{name}:" and lines[-1].strip() == last


def test_periods_are_the_hypers_that_clocks_count_with() -> None:
    page = build(loads(TIMES), None)
    assert {p.name: p.value for p in page.periods} == {"n": 4, "hop": 6, "era": 24}
    page = build(load("hope"), load("m3"))
    names = [p.name for p in page.periods]
    assert names == ["chunk", "memory_chunk", "periods[0]", "periods[1]", "periods[2]", "f"]


# ---------------------------------------------------------------- the browser


def _browser() -> Any:
    """A driver of headless Chromium, or the reason why there is none."""
    try:
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException
    except ImportError:
        return "selenium is not installed"
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        return f"there is no {'Chromium' if browser is None else 'chromedriver'} on this machine"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        return f"Chromium does not start: {str(error).splitlines()[0]}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    made = _browser()
    if isinstance(made, str):
        if os.environ.get("NLC_REQUIRE_BROWSER"):
            pytest.fail(f"NLC_REQUIRE_BROWSER is set, and {made}")
        pytest.skip(made)
    yield made
    made.quit()


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Callable[..., Any]:
    """``show(text, size)`` opens a page from disk; at the end of the test nothing may have gone wrong in it."""
    shown = []

    def at(text: str, size: tuple[int, int] = (1280, 800), dark: bool = False) -> Any:
        file = tmp_path / f"{len(shown)} a&b.html"
        file.write_text(text, encoding="utf-8")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        chromium.get(file.as_uri())
        shown.append(file.as_uri())
        settle(chromium)
        return chromium

    yield at
    said = [entry["message"] for entry in chromium.get_log("browser")]
    events = [json.loads(e["message"])["message"] for e in chromium.get_log("performance")]
    assert said == []
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert set(asked) <= set(shown), asked


@pytest.fixture(scope="module")
def pages() -> Callable[[str], str]:
    made: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in made:
            made[name] = _page(name)
        return made[name]

    return of


def _page(name: str) -> str:
    if name.startswith("many "):
        return loads(many(*map(int, name.split()[1:]))).page()
    token, _, optimizer = name.partition(" by ")
    spec: Spec = loads(TIMES) if token == "times" else load(token)
    return spec.page(load(optimizer) if optimizer else None)


def settle(browser: Any) -> None:
    """Waits for what the page does behind a layout."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
    )


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((x) => x.textContent)"
    return browser.execute_script(script, selector)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()
    settle(browser)


def focused(browser: Any) -> str:
    return browser.execute_script(
        "return document.activeElement.querySelector('.name')?.textContent ?? document.activeElement.id"
    )


# ---------------------------------------------------------------- what it shows


@pytest.mark.parametrize(
    "name",
    [
        "hope by m3",
        "adamw",
        "lookahead",
        "attention",
        "hope_attention",
        "hope_slow",
        "cms_nested",
        "times",
    ],
)
def test_cards_stand_in_their_lanes_in_order(name: str, show: Callable, pages: Callable) -> None:
    browser = show(pages(name))
    token, _, optimizer = name.partition(" by ")
    spec = loads(TIMES) if token == "times" else load(token)
    graph = spec.combined(load(optimizer)) if optimizer else spec.graph
    lanes = browser.execute_script(
        "return [...document.querySelectorAll('.lane')].map((l) =>"
        " [...l.querySelectorAll('.card .name')].map((n) => n.textContent))"
    )
    assert lanes == graph.graph["levels"]
    nodes = [graph.nodes[n] for level in lanes for n in level]
    assert texts(browser, ".card .clock") == [node["clock"] for node in nodes]
    laws = texts(browser, ".card .law.min")
    assert laws == [f"min {node['objective']}" for node in nodes if node["objective"]]
    tops = browser.execute_script(
        "return [...document.querySelectorAll('.lane')].map((l) => l.getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    drawn = browser.execute_script("return document.querySelectorAll('#edges > .edge').length")
    assert drawn == graph.number_of_edges()
    assert texts(browser, "title") == [graph.graph["system"]]


def test_keys_reach_every_card_and_its_panel(show: Callable, pages: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(pages("hope by m3"))
    hope, m3 = load("hope"), load("m3")
    press(browser, Keys.TAB, Keys.TAB)
    assert focused(browser) == "M_k"
    press(browser, Keys.ARROW_RIGHT)
    assert focused(browser) == "M_v"
    press(browser, Keys.END, Keys.ARROW_RIGHT)
    assert focused(browser) == "M_memory"
    press(browser, Keys.ARROW_DOWN)
    assert focused(browser) == "C_1"
    assert not browser.find_element("id", "panel").is_displayed()
    press(browser, Keys.ENTER)
    panel = browser.find_element("id", "panel")
    assert panel.is_displayed() and focused(browser) == "panel-title"
    assert texts(browser, "#panel .math code") == update_lines(hope.system, hope.updates["C_1"])
    fact = next(f for level in hope.explain().levels for f in level if f.name == "C_1")
    said = panel.text
    for text in (fact.kind, fact.plan, fact.why, fact.quote, "every 64 tokens (periods[0])"):
        assert text in said
    generated = hope.source_text().splitlines()
    numbers = browser.execute_script(
        "return [...document.querySelectorAll('#panel section:last-of-type .line')]"
        ".map((l) => [Number(l.dataset.n), l.textContent.trimEnd()])"
    )
    assert any("C_W1 = C_W1 - self.cms_lr / period * C_sum" in line for _, line in numbers)
    assert all(generated[n - 1].endswith(line) for n, line in numbers)
    press(browser, Keys.ESCAPE)
    assert not panel.is_displayed() and focused(browser) == "C_1"
    press(browser, " ", Keys.ESCAPE, Keys.ENTER)  # a space opens too
    browser.execute_script("document.querySelector('.card.chosen').focus()")
    for _ in range(3):
        press(browser, Keys.ARROW_DOWN)
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert focused(browser) == "M2"  # with the panel open it follows
    assert texts(browser, "#panel .math code") == update_lines(m3.system, m3.updates["M2"])
    assert "M2 = M2 - beta3 * M2_grad" in browser.find_element("id", "panel").text


def test_the_looked_at_card_lights_its_edges(show: Callable, pages: Callable) -> None:
    browser = show(pages("hope by m3"))
    graph = load("hope").combined(load("m3"))
    browser.find_elements("css selector", ".card")[5].click()  # C_1
    settle(browser)
    count = browser.execute_script("return document.querySelectorAll('#over > .edge').length")
    assert count == graph.in_degree("C_1") + graph.out_degree("C_1")
    lit = set(texts(browser, ".card.related .name"))
    assert lit == {*graph.predecessors("C_1"), *graph.successors("C_1")}


# ---------------------------------------------------------------- time


def ticks(kind: str, n: int, span: int, unit: int, sequence: int | None) -> list[float]:
    """The positions from 1 to ``span`` at which a clock ticks, counted one by one (language, section 2).

    ``kind``: "end" and "start" of periods of n, "per" for n in each. ``unit``: positions in a tick
    of the clock's unit. ``sequence``: ticks after which counting starts over.
    """
    out: list[float] = []
    t = 0
    for place in range(1, span // unit + 1):
        t = 1 if sequence and (place - 1) % sequence == 0 else t + 1
        if kind == "per":
            out += [place - 0.5 + (i + 0.5) / n for i in range(n)]
        elif (kind == "end" and t % n == 0) or (kind == "start" and (t - 1) % n == 0):
            out.append(place * unit)
    return out


def marked(browser: Any, row: int, kind: str) -> list[float]:
    """Where a row has marks, in units of the raster."""
    d, width = browser.execute_script(
        "const svg = document.querySelectorAll('.plot')[arguments[0]];"
        "const mark = svg.querySelector(`.mark.${arguments[1]}`);"
        "return [mark ? mark.getAttribute('d') : '', svg.viewBox.baseVal.width]",
        row,
        kind,
    )
    span = int(entry(browser, "tokens shown").get_attribute("value"))
    return [float(x) / width * span + 0.5 for x in re.findall(r"M([\d.]+) ", d)]


def entry(browser: Any, label: str) -> Any:
    return browser.find_element("css selector", f'input[aria-label="{label}, exact"]')


def enter(browser: Any, label: str, value: int) -> None:
    from selenium.webdriver import Keys

    box = entry(browser, label)
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.NULL, str(value), Keys.TAB)
    settle(browser)


def test_the_raster_ticks_as_the_language_says(show: Callable, pages: Callable) -> None:
    browser = show(pages("times"), (1920, 1080))
    rows = texts(browser, ".row .who .name")
    assert rows == ["each", "early", "late", "weights"]
    enter(browser, "tokens shown", 160)

    def agree(n: int, hop: int, era: int, step: int, fresh: bool) -> None:
        part, span, over = n // 2, 160, step if fresh else None
        expected = [
            (0, "tick", ticks("end", 1, span, 1, over)),
            (0, "anchor", ticks("start", part, span, 1, over)),
            (1, "tick", ticks("start", hop, span, 1, over)),
            (2, "tick", ticks("end", hop, span, 1, over)),
            (2, "reset", ticks("end", era, span, 1, over)),
            (3, "tick", ticks("end", 1, span, step, None)),
        ]
        for row, kind, positions in expected:
            assert marked(browser, row, kind) == pytest.approx(positions, abs=0.02), (row, kind)
        counts = texts(browser, ".row .total")[:4]
        wanted = [len(positions) for _, kind, positions in expected if kind == "tick"]
        assert [int(c.split()[0]) for c in counts] == wanted

    agree(4, 6, 24, 48, True)
    enter(browser, "hop", 5)
    assert "NLC402" in browser.find_element("id", "warning").text  # 24 is no multiple of 5
    assert texts(browser, ".card .clock")[1] == "every 5 tokens, at the start (hop)"
    assert texts(browser, ".row .who .clock")[2] == "every 5 tokens (hop)"
    agree(4, 5, 24, 48, True)
    enter(browser, "n", 6)
    enter(browser, "era", 25)
    assert browser.find_element("id", "warning").text == ""
    enter(browser, "tokens a step", 32)
    agree(6, 5, 25, 32, True)
    browser.find_element("id", "fresh").click()
    settle(browser)
    agree(6, 5, 25, 32, False)
    enter(browser, "n", 7)  # half of it is no period
    assert "whole number" in browser.find_element("id", "warning").text
    browser.find_element("id", "reset").click()
    settle(browser)
    assert texts(browser, ".card .clock")[2] == "every 6 tokens (hop)"
    assert browser.find_element("id", "warning").text == ""


def test_clocks_of_other_kinds(show: Callable) -> None:
    """More than once a token, never, and where the data says."""
    page = build(loads(TIMES), None)
    rows, tick = list(page.rows), page.rows[0].tick
    two = replace(tick.count, terms=((2, 1, ()),))
    rows[0] = replace(rows[0], tick=replace(tick, kind="per", count=two), anchor=None)
    rows[1] = replace(rows[1], tick=replace(tick, kind="never"))
    rows[2] = replace(rows[2], tick=replace(tick, name="episode"), reset=None)
    browser = show(html(replace(page, rows=tuple(rows), span=64), ""), (1920, 1080))
    assert marked(browser, 0, "tick") == pytest.approx(ticks("per", 2, 64, 1, None), abs=0.02)
    assert marked(browser, 1, "tick") == []
    clocks = ["2 per token", "never", "every episode"]
    assert texts(browser, ".row .who .clock")[:3] == clocks
    amounts = ["128 ticks", "0 ticks", "as episode says"]
    assert texts(browser, ".row .total")[:3] == amounts


def test_a_slider_moves_with_the_keys(show: Callable, pages: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(pages("hope by m3"), (1920, 1080))
    assert texts(browser, ".row .total")[4:] == ["32 ticks", "16 ticks", "16 ticks", "2 ticks", ""]
    label = next(x for x in browser.find_elements("css selector", ".control") if "f\n" in x.text)
    label.find_element("css selector", "input[type=range]").send_keys(Keys.ARROW_LEFT)
    settle(browser)
    assert texts(browser, ".card .clock")[-1] == "every 6 steps (f)"
    assert marked(browser, 7, "tick") == pytest.approx(ticks("end", 6, 32768, 2048, None), abs=20)
    browser.find_element("id", "scrub").send_keys(Keys.END)
    settle(browser)
    said = browser.find_element("id", "readout").text
    assert said.startswith("token 32,768 of step 16: ") and "C_3" in said and "W" in said
    assert "M2" not in said  # 16 is no multiple of 6


def test_the_order_of_levels_is_watched(show: Callable, pages: Callable) -> None:
    browser = show(pages("hope by m3"))
    enter(browser, "periods[0]", 512)
    assert "C_2 now ticks more often than C_1" in browser.find_element("id", "warning").text


# ---------------------------------------------------------------- how it looks

LAYOUT = """
const wide = document.documentElement;
const out = [];
if (wide.scrollWidth > wide.clientWidth) out.push(`the page is ${wide.scrollWidth} wide`);
const rects = [...document.querySelectorAll('.card')].map((c) => c.getBoundingClientRect());
rects.forEach((a, i) => rects.slice(i + 1).forEach((b, j) => {
  if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) out.push(`cards ${i}, ${i + 1 + j}`);
}));
for (const e of document.querySelectorAll('.card, .card > *, .who > *, .lane-head > *, .order, .total, h1, h2, label, .about, dd, dt')) {
  if (getComputedStyle(e).display === 'none' || !e.getClientRects().length) continue;
  const r = e.getBoundingClientRect();
  const own = document.createRange();
  own.selectNodeContents(e);
  const text = own.getBoundingClientRect();
  if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) out.push(`cut: ${e.className} ${e.textContent}`);
  if (text.width && (text.right > Math.max(r.right, 0) + 1 || r.right > wide.clientWidth + 1)) out.push(`out: ${e.className} ${e.textContent}`);
}
for (const path of arguments[0] ? document.querySelectorAll('#edges > .edge') : []) {
  const origin = document.getElementById('canvas').getBoundingClientRect();
  const length = path.getTotalLength();
  for (let s = 6; s < length - 6; s += 25) {
    const p = path.getPointAtLength(s);
    const [x, y] = [p.x + origin.left, p.y + origin.top];
    const hit = rects.find((r) => x > r.left + 2 && x < r.right - 2 && y > r.top + 3 && y < r.bottom - 3);
    if (hit) { out.push(`an edge crosses a card at ${x}, ${y}`); break; }
  }
}
return out;
"""


@pytest.mark.parametrize("name", ["hope by m3", "many 6 3", "many 47 12"])
@pytest.mark.parametrize("size", WIDTHS, ids=str)
def test_nothing_overlaps_or_is_cut(
    name: str, size: tuple[int, int], show: Callable, pages: Callable
) -> None:
    browser = show(pages(name), size)
    members = {"hope by m3": 12, "many 6 3": 10, "many 47 12": 60}[name]
    assert len(texts(browser, ".card")) == members
    assert browser.execute_script(LAYOUT, True) == []
    browser.execute_script("document.querySelector('.card').click()")
    settle(browser)
    assert browser.execute_script(LAYOUT, False) == []


# the contrast of text with what lies behind it (WCAG 2, 1.4.3), for all text that is shown
CONTRAST = """
const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
  const x = c[i] / 255;
  return sum + w * (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
}, 0);
const canvas = (dark) => (dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
let worst = [21, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest('script, noscript')) continue;
  const chain = [];
  for (let x = e; x; x = x.parentElement) chain.unshift(x);
  let back = canvas(arguments[0]), faded = 1;
  for (const x of chain) {
    const style = getComputedStyle(x);
    back = over(parse(style.backgroundColor), back);
    faded *= Number(style.opacity);
  }
  const ink = parse(getComputedStyle(e).color);
  ink[3] *= faded;
  const [a, b] = [light(over(ink, back)), light(back)].sort((p, q) => q - p);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, `${e.className || e.tagName}: ${walker.currentNode.data.slice(0, 40)}`];
}
return worst;
"""


def test_light_and_dark_are_readable(show: Callable, pages: Callable) -> None:
    grounds = []
    for dark in (False, True):
        browser = show(pages("hope by m3"), dark=dark)
        for step in ("", "document.querySelectorAll('.card')[6].click()"):
            browser.execute_script(step)
            settle(browser)
            ratio, where = browser.execute_script(CONTRAST, dark)
            assert ratio >= 4.5, (dark, where, ratio)
        body = "return getComputedStyle(document.body).backgroundColor"
        grounds.append(browser.execute_script(body))
        assert browser.find_element("id", "theme").text == ("Light" if dark else "Dark")
    assert grounds[0] != grounds[1]
    browser.find_element("id", "theme").click()  # the reader's choice goes before the system's
    assert browser.execute_script(body) == grounds[0]


def test_what_has_the_focus_is_seen(show: Callable, pages: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(pages("times"))
    seen = set()
    for _ in range(12):
        press(browser, Keys.TAB)
        name, outline = browser.execute_script(
            "const e = document.activeElement; const s = getComputedStyle(e);"
            "return [e.tagName + e.id + e.className, s.outlineStyle + ' ' + parseFloat(s.outlineWidth)]"
        )
        if name.startswith("BODY"):
            break
        seen.add(name.split()[0][:6])
        style, width = outline.split()
        assert style != "none" and float(width) >= 1, name
    assert {"BUTTON", "INPUTs"} <= {name[:6] for name in seen}


# ---------------------------------------------------------------- hostile text


def test_no_text_becomes_markup(show: Callable) -> None:
    page = build(loads(TIMES), None)
    cards = tuple(
        replace(
            c,
            name=HOSTILE,
            doc=HOSTILE,
            shape=HOSTILE,
            law=(("min", HOSTILE),),
            detail=replace(
                c.detail,
                update=(HOSTILE,),
                derivation=((HOSTILE, HOSTILE),),
                notes=((HOSTILE, HOSTILE),),
                faster=(HOSTILE,),
            ),
        )
        for c in page.cards
    )
    files = tuple(replace(f, name=HOSTILE, lines=(HOSTILE,) * len(f.lines)) for f in page.files)
    periods = tuple(replace(p, name=HOSTILE) for p in page.periods)
    lanes = tuple(replace(lane, order=HOSTILE) for lane in page.lanes)
    made = replace(
        page,
        name=HOSTILE,
        docs=(HOSTILE,),
        cards=cards,
        files=files,
        periods=periods,
        lanes=lanes,
    )
    browser = show(html(made, HOSTILE))
    browser.find_element("css selector", ".card").click()
    settle(browser)
    assert texts(browser, "h1") == [HOSTILE] and texts(browser, "title") == [HOSTILE]
    assert set(texts(browser, ".card .name, #panel h2, #panel .line code, #panel .file")) == {
        HOSTILE
    }
    assert browser.execute_script("return document.querySelectorAll('img, iframe').length") == 0
    assert browser.execute_script("return document.scripts.length") == 2


def test_a_hostile_doc_of_a_spec_stays_text(show: Callable) -> None:
    doc = HOSTILE.replace("\u2028", "")  # which no spec may hold
    made = loads(TIMES.replace("Levels of many rhythms.", json.dumps(doc)), f"{doc}.yaml").page()
    browser = show(made)
    assert texts(browser, ".doc") == [doc] and data(made)["docs"] == [doc]
