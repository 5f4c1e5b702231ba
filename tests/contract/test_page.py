"""The page in a real browser: it opens, answers keys, and lets no guest do anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.plan.outcome import Outcome, RunResult
from orchestrator.policy.reports import write_html
from tests.contract.browser import Browser, find_browser, open_browser
from tests.unit.test_report_html import MARKUP, hostile
from tests.unit.test_reports import (
    CHANGES,
    EVERYTHING,
    HUNG,
    NOT_BUILT,
    cell,
    failed_cell,
    kernel,
    run,
)

PROGRAM = find_browser()

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed here"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with open_browser(PROGRAM) as opened:
        yield opened


def show(browser: Browser, result: RunResult, folder: Path, hash_: str = "") -> None:
    path = write_html(result, folder)
    browser.errors.clear()
    browser.requests.clear()
    browser.open("about:blank")  # or another hash alone would load nothing
    browser.open(f"{path.as_uri()}{hash_}")


def panel(browser: Browser) -> str:
    """What the open cell says; empty where none is open."""
    text = browser.evaluate(
        "(p => p.hidden ? '' : p.textContent)(document.getElementById('panel'))"
    )
    assert isinstance(text, str)
    return text


def test_keys_move_open_and_close(browser: Browser, tmp_path: Path) -> None:
    show(browser, EVERYTHING, tmp_path)
    browser.evaluate("document.querySelector('#matrix td').focus()")
    browser.press("ArrowDown")
    assert browser.evaluate("document.activeElement.textContent") == "FAIL"
    browser.press("Enter")
    assert "greeting/fail on k1" in panel(browser)
    assert "g_HelloWorld at HelloWorld.c:42: HelloWorld();" in panel(browser)
    assert browser.evaluate("location.hash") == "#k1/greeting.fail"
    browser.press("Escape")
    assert panel(browser) == ""
    assert browser.evaluate("document.activeElement.textContent") == "FAIL"
    browser.press("?")
    assert browser.evaluate("document.getElementById('help').open") is True
    assert browser.errors == []


@pytest.mark.parametrize("hash_", ["#k1/greeting.fail", "#k1/greeting/fail"])
def test_a_link_opens_its_cell(browser: Browser, tmp_path: Path, hash_: str) -> None:
    show(browser, EVERYTHING, tmp_path, hash_)
    assert "greeting/fail on k1" in panel(browser)
    show(browser, EVERYTHING, tmp_path, "#k9/none")
    assert panel(browser) == ""


def test_filters_leave_what_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    show(browser, CHANGES, tmp_path)
    shown = (
        "Array.from(document.querySelectorAll('#matrix tbody tr')).filter(r => !r.hidden).length"
    )
    assert browser.evaluate(shown) == 5
    browser.evaluate(
        "(i => { i.value = 'SAME'; i.dispatchEvent(new Event('input')); })"
        "(document.getElementById('text'))"
    )
    assert browser.evaluate(shown) == 1
    assert "1 of 5 scenarios" in browser.evaluate("document.getElementById('shown').textContent")


@pytest.mark.parametrize("text", MARKUP)
def test_no_guest_runs_anything(browser: Browser, tmp_path: Path, text: str) -> None:
    show(browser, hostile(text), tmp_path)
    count = "document.querySelectorAll('#matrix tbody td').length"
    for number in range(browser.evaluate(count)):
        browser.evaluate(f"document.querySelectorAll('#matrix tbody td')[{number}].click()")
    assert browser.evaluate("document.querySelectorAll('img, iframe, [onerror]').length") == 0
    assert browser.evaluate("document.scripts.length") == 4
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "about:"))] == []


def test_the_policy_holds(browser: Browser, tmp_path: Path) -> None:
    show(browser, EVERYTHING, tmp_path)
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.owned = 1'}), "
        "Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))"
    )
    assert browser.evaluate("window.owned") is None
    assert any("Content Security Policy" in error for error in browser.errors)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    for result in (EVERYTHING, CHANGES, HUNG, NOT_BUILT):
        browser.size(width, 800)
        show(browser, result, tmp_path)
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.evaluate(wide)


def test_a_large_matrix_opens(browser: Browser, tmp_path: Path) -> None:
    """50 kernels x 500 scenarios; the numbers are in docs/reports.md."""
    kernels = []
    for number in range(50):
        name = f"5.{number}"
        cells = [cell(Outcome.PASSED, f"a/s{each}", name) for each in range(500)]
        cells[number] = replace(failed_cell(name), scenario=f"a/s{number}")
        kernels.append(kernel(*cells, name=name))
    browser.size(1280, 800)
    show(browser, run(*kernels), tmp_path, "#5.49/a.s49")
    assert "a/s49 on 5.49" in panel(browser)
    assert browser.evaluate("document.querySelectorAll('#matrix tbody td').length") == 25000
    head = "document.querySelector('#matrix thead th').getBoundingClientRect().top"
    before = browser.evaluate(head)
    browser.evaluate("document.querySelector('.scroll').scrollTop = 5000")
    assert browser.evaluate(head) == before
