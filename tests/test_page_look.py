"""The page of a level graph in headless Chromium: nothing overlaps, all is readable, no text becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import HOSTILE, TIMES, page_of, press, settle, texts

from nlc.pipeline import loads
from nlc.tools.page import html
from nlc.tools.page.build import build

WIDTHS = ((390, 844), (1280, 800), (1920, 1080))
LAYOUT = (Path(__file__).parent / "page_layout.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["hope by m3", "many 6 3", "many 47 12"])
@pytest.mark.parametrize("size", WIDTHS, ids=str)
def test_nothing_overlaps_or_is_cut(name: str, size: tuple[int, int], show: Callable) -> None:
    browser = show(page_of(name), size)
    members = {"hope by m3": 12, "many 6 3": 10, "many 47 12": 60}[name]
    assert len(texts(browser, ".card")) == members
    assert browser.execute_script(LAYOUT, True) == []
    browser.execute_script("document.querySelector('.card').click()")
    settle(browser)
    assert browser.execute_script(LAYOUT, False) == []


CONTRAST = (Path(__file__).parent / "page_contrast.js").read_text(encoding="utf-8")


def test_light_and_dark_are_readable(show: Callable) -> None:
    grounds = []
    for dark in (False, True):
        browser = show(page_of("hope by m3"), dark=dark)
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


def test_what_has_the_focus_is_seen(show: Callable) -> None:
    from selenium.webdriver import Keys

    browser = show(page_of("times"))
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


def data(text: str) -> Any:
    """What the page's script reads."""
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


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
