"""The page of a level graph in headless Chromium: what it shows, how keys and sliders work, when levels tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from browser import TIMES, enter, focused, marked, page_of, press, settle, texts, ticks

from nlc.pipeline import load, loads
from nlc.tools.derivation import update_lines
from nlc.tools.page import html
from nlc.tools.page.build import build


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
def test_cards_stand_in_their_lanes_in_order(name: str, show: Callable) -> None:
    browser = show(page_of(name))
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


def test_keys_reach_every_card_and_its_panel(show: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(page_of("hope by m3"))
    hope, m3 = load("hope"), load("m3")
    press(browser, Keys.TAB, Keys.TAB)
    assert focused(browser) == "M_k"
    press(browser, Keys.ARROW_RIGHT)
    assert focused(browser) == "M_v"
    press(browser, Keys.END, Keys.ARROW_RIGHT)
    assert focused(browser) == "M_memory"
    press(browser, Keys.ARROW_DOWN)
    assert focused(browser) == "cms.C_1"
    assert not browser.find_element("id", "panel").is_displayed()
    press(browser, Keys.ENTER)
    panel = browser.find_element("id", "panel")
    assert panel.is_displayed() and focused(browser) == "panel-title"
    assert texts(browser, "#panel .math code") == update_lines(hope.system, hope.updates["cms.C_1"])
    fact = next(f for level in hope.explain().levels for f in level if f.name == "cms.C_1")
    said = panel.text
    for text in (fact.kind, fact.plan, fact.why, fact.quote, "every 64 tokens (periods[0])"):
        assert text in said
    generated = hope.source_text().splitlines()
    numbers = browser.execute_script(
        "return [...document.querySelectorAll('#panel section:last-of-type .line')]"
        ".map((l) => [Number(l.dataset.n), l.textContent.trimEnd()])"
    )
    assert any("W1 = W1 - self.cms_lr / period * sum_" in line for _, line in numbers)
    assert all(generated[n - 1].endswith(line) for n, line in numbers)
    press(browser, Keys.ESCAPE)
    assert not panel.is_displayed() and focused(browser) == "cms.C_1"
    press(browser, " ", Keys.ESCAPE, Keys.ENTER)  # a space opens too
    browser.execute_script("document.querySelector('.card.chosen').focus()")
    for _ in range(3):
        press(browser, Keys.ARROW_DOWN)
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert focused(browser) == "M2"  # with the panel open it follows
    assert texts(browser, "#panel .math code") == update_lines(m3.system, m3.updates["M2"])
    assert "M2.add_(M2_sum, alpha=beta3)" in browser.find_element("id", "panel").text


STANDS = """
const origin = document.getElementById('canvas').getBoundingClientRect();
return [...document.querySelectorAll('.card, .lane, .order')].map((e) => {
  const r = e.getBoundingClientRect();
  return [r.left - origin.left, r.top + scrollY, r.width, r.height].map(Math.round).join(' ');
});
"""
IN_SIGHT = """
const r = document.querySelector('.card.chosen').getBoundingClientRect();
const panel = document.getElementById('panel').getBoundingClientRect();
return r.left >= 0 && r.right <= panel.left && r.top >= 0 && r.bottom <= innerHeight;
"""


@pytest.mark.parametrize("size", ((1280, 800), (1920, 1080)), ids=str)
@pytest.mark.parametrize("name", ("hope by m3", "many 6 3"))
def test_the_picture_stays_as_it_is_beside_a_panel(
    name: str, size: tuple[int, int], show: Callable
) -> None:
    from selenium.webdriver import Keys

    browser = show(page_of(name), size)
    before = browser.execute_script(STANDS)
    for card in range(len(texts(browser, ".card"))):
        browser.execute_script("document.querySelectorAll('.card')[arguments[0]].click()", card)
        settle(browser)
        assert browser.execute_script(STANDS) == before
        assert browser.execute_script(IN_SIGHT), card
    press(browser, Keys.ESCAPE)
    assert browser.execute_script(STANDS) == before
    assert browser.execute_script("return document.querySelector('.graph').scrollLeft") == 0


def test_the_looked_at_card_lights_its_edges(show: Callable) -> None:
    browser = show(page_of("hope by m3"))
    graph = load("hope").combined(load("m3"))
    browser.find_elements("css selector", ".card")[5].click()  # cms.C_1
    settle(browser)
    count = browser.execute_script("return document.querySelectorAll('#over > .edge').length")
    assert count == graph.in_degree("cms.C_1") + graph.out_degree("cms.C_1")
    lit = set(texts(browser, ".card.related .name"))
    assert lit == {*graph.predecessors("cms.C_1"), *graph.successors("cms.C_1")}


def test_the_raster_ticks_as_the_language_says(show: Callable) -> None:
    browser = show(page_of("times"), (1920, 1080))
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


def test_a_slider_moves_with_the_keys(show: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(page_of("hope by m3"), (1920, 1080))
    assert texts(browser, ".row .total")[4:] == [
        "32 ticks",
        "16 ticks",
        "16 ticks",
        "2 ticks",
        "tokens",
    ]
    label = next(x for x in browser.find_elements("css selector", ".control") if "f\n" in x.text)
    label.find_element("css selector", "input[type=range]").send_keys(Keys.ARROW_LEFT)
    settle(browser)
    assert texts(browser, ".card .clock")[-1] == "every 6 steps (f)"
    assert marked(browser, 7, "tick") == pytest.approx(ticks("end", 6, 32768, 2048, None), abs=20)
    browser.find_element("id", "scrub").send_keys(Keys.END)
    settle(browser)
    said = browser.find_element("id", "readout").text
    assert said.startswith("token 32,768 of step 16: ") and "cms.C_3" in said and "W" in said
    assert "M2" not in said  # 16 is no multiple of 6


def test_the_order_of_levels_is_watched(show: Callable) -> None:
    browser = show(page_of("hope by m3"))
    enter(browser, "periods[0]", 512)
    assert "cms.C_2 now ticks more often than cms.C_1" in browser.find_element("id", "warning").text


def test_a_system_without_components_has_a_page(show: Callable) -> None:
    bare = "nlc: 1\nsystem: bare\ncontext: tokens\nhyper: {d: 4}\ninputs: {x: [d]}\nlevels: {}\noutput: {y: 2 * x}\n"
    browser = show(loads(bare).page())
    assert texts(browser, "#lanes") == ["no components"] and texts(browser, ".card") == []
