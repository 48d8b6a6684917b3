"""Headless Chromium for tests of pages: how it starts, what it is asked, and the specs whose pages are shown."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

from nlc.pipeline import Spec, load, loads

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


@functools.cache
def page_of(name: str) -> str:
    """Of a shipped spec, of one "by" an optimizer, of "times", or of "many" and two numbers."""
    if name.startswith("many "):
        return loads(many(*map(int, name.split()[1:]))).page()
    token, _, optimizer = name.partition(" by ")
    spec: Spec = loads(TIMES) if token == "times" else load(token)
    return spec.page(load(optimizer) if optimizer else None)


class Shown:
    """Opens pages from disk; ``done`` raises if one said or loaded anything."""

    def __init__(self, browser: Any, folder: Path):
        self.browser, self.folder = browser, folder
        self.opened: list[str] = []

    def __call__(self, text: str, size: tuple[int, int] = (1280, 800), dark: bool = False) -> Any:
        file = self.folder / f"{len(self.opened)} a&b.html"
        file.write_text(text, encoding="utf-8")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        self.browser.get(file.as_uri())
        self.opened.append(file.as_uri())
        settle(self.browser)
        return self.browser

    def done(self) -> None:
        said = [entry["message"] for entry in self.browser.get_log("browser")]
        events = [json.loads(e["message"])["message"] for e in self.browser.get_log("performance")]
        asked = {
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        }
        assert said == []
        assert asked <= set(self.opened), asked


def start() -> Any:
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
