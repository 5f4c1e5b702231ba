"""The page: what stands in it, and that no text of a guest is more than text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.klog import Finding
from orchestrator.plan.outcome import KernelIdentity, KernelResult, Outcome, RunResult
from orchestrator.policy.reports import html as page_module
from orchestrator.policy.reports import render_html, write_html
from orchestrator.policy.reports.celldata import cell_data, find_marks
from orchestrator.policy.reports.html import anchor, evidence_link
from orchestrator.policy.reports.logs import MAX_LOG_BYTES, read_logs
from orchestrator.policy.reports.matrix import Mark, make_matrix
from tests.unit.test_reports import (
    CHANGES,
    EVERYTHING,
    HOSTILE_RUN,
    HUNG,
    NOT_BUILT,
    cell,
    failed_cell,
    kernel,
    matrix,
    run,
)

MARKUP = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--",
    "</style></title><svg onload=alert(3)>",
    "{{script}} {{data}} \\1 \\g<0>",
    "\u202e\u2066\ufeff\x00\x1b[2J\x9b\u2028",
    "javascript:alert(4)",
    "]]><![CDATA[",
)


class Page(HTMLParser):
    """The elements of a page, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs))
            self.raw.append((*self._open, ""))

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[0]:
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, attributes, text = self.raw.pop()
            self.raw.append((tag, attributes, text + data))
        else:
            self.text += data

    def data(self, name: str) -> Any:
        """What the JSON of this name holds."""
        return next(
            json.loads(text)
            for _, attributes, text in self.raw
            if attributes.get("id") == f"data-{name}"
        )


def hostile(text: str) -> RunResult:
    """A run in which everything that can come from outside is ``text``."""
    kernels = (
        replace(
            kernel(failed_cell(text=text), name="k1", error=text),
            identity=KernelIdentity("k1", text, text, text),
            hint=text,
            evidence=text,
            last_lines=(text,),
            boot_note=text,
            boot_findings=(Finding("warning", text, 0, 0, (text,)),),
        ),
        kernel(replace(cell(Outcome.ERROR), scenario=text, reason=text), name=text),
    )
    return replace(run(*kernels), lab=text, run_id=text, accelerator_reason=text)


def shape(page: Page) -> tuple[Counter[str], list[tuple[str, str]]]:
    return page.tags, [(tag, name) for tag, name, _ in page.attributes if name != "title"]


# --- nothing of a guest is markup --------------------------------------------------------------


@pytest.mark.parametrize("text", MARKUP)
def test_markup_of_a_guest_is_text(text: str) -> None:
    page = Page(render_html(hostile(text), {("k1", "greeting/fail"): (text,)}))
    plain = Page(render_html(hostile("plain"), {("k1", "greeting/fail"): ("plain",)}))
    assert page.tags["img"] == 0
    assert page.tags["script"] == plain.tags["script"] == 4
    assert page.tags["svg"] == plain.tags["svg"]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert shape(page)[0]["pre"] == shape(plain)[0]["pre"]
    assert not [
        value for _, name, value in page.attributes if name in ("href", "src") and ":" in value
    ]


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_no_text_is_anything_but_printable_text(text: str) -> None:
    written = render_html(hostile(text), {("k1", "greeting/fail"): (text,)})
    assert all(char.isprintable() or char == "\n" for char in written)
    for element in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', written):
        assert "<" not in element
        json.loads(element)


def test_every_report_can_be_a_page() -> None:
    for result in (EVERYTHING, CHANGES, HUNG, NOT_BUILT, HOSTILE_RUN, run()):
        page = Page(render_html(result))
        assert len(page.data("index")["kernels"]) == len(result.kernels)


def test_half_a_character_can_be_written() -> None:
    half = replace(cell(Outcome.FAILED, "a/\ud800"), reason="\ud800", evidence=Path("\ud800"))
    assert "\\ud800" in render_html(run(kernel(half, name="\ud800"))).encode().decode()


# --- it needs nothing else ---------------------------------------------------------------------


def test_the_policy_allows_the_one_script_and_the_one_style() -> None:
    page = Page(render_html(EVERYTHING))
    policy = next(value for _, _, value in page.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, attributes, text in page.raw:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched() -> None:
    page = Page(render_html(EVERYTHING))
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "embed", "base", "video"}
    assert "style" not in {name for _, name, _ in page.attributes}
    assert "src" not in {name for _, name, _ in page.attributes}
    (style,) = (text for tag, _, text in page.raw if tag == "style")
    assert not re.search(r"url\(|@import|@font-face", style)


# --- what stands in it -------------------------------------------------------------------------


def columns(page: str) -> list[str]:
    head = page.split('<table id="matrix">')[1].split("</thead>")[0]
    return re.findall(r'<th scope="col"><span>(.*?)</span>', head)


def row(page: str, scenario: str) -> list[str]:
    line = re.search(rf'<th scope="row"><span>{scenario}</span></th>(.*?)</tr>', page)
    assert line is not None
    return re.findall(r'<td class="?([a-z ]+)"?', line[1])


def test_kernels_stand_in_the_order_of_versions() -> None:
    shuffled = replace(CHANGES, kernels=(*reversed(CHANGES.kernels), KernelResult("lost", None)))
    assert columns(render_html(shuffled)) == ["5.4", "5.8", "5.10", "6.1", "lost"]


def test_boundaries_are_drawn_where_they_are() -> None:
    page = render_html(CHANGES)
    assert row(page, "a") == ["p", "e u", "f b", "f"]
    assert row(page, "back") == ["f", "p b", "f b", "f"]
    assert row(page, "same") == ["f", "f", "f", "f"]
    assert "passed up to 5.4.302, failed from 5.10.223" in Page(page).text


def test_kernels_of_one_version_that_disagree_are_marked() -> None:
    both = matrix(a="PPFF")
    twin = replace(both.kernels[2], name="5.10-other", cells=())
    twin = replace(twin, cells=(cell(Outcome.PASSED, "a", "5.10-other"),))
    marks = make_matrix(replace(both, kernels=(*both.kernels, twin))).marks
    assert marks["5.10-other", "a"] is marks["5.10", "a"] is Mark.DISAGREE


def test_a_failure_is_told_without_scripts() -> None:
    page = render_html(EVERYTHING)
    text = " ".join(Page(page).text.split())
    assert "greeting/fail on k1 step 2, run HelloWorld: stdout is HelloWorld" in text
    assert 'id="k1/greeting.fail"' in page
    assert 'href="./cells/k1/greeting/fail/transcript.txt"' in page
    assert "the lab broke: 2 scenarios not judged, 2 kernels not usable" in text
    assert "no such package" in text
    assert "ended before its time" not in text
    assert "ended before its time" in Page(render_html(replace(EVERYTHING, interrupted=True))).text


def test_a_cell_opens_into_all_that_is_known_of_it() -> None:
    log = ("[    4.039586] HelloWorld", "[    4.1] other")
    data = Page(render_html(EVERYTHING, {("k1", "greeting/fail"): log})).data("kernel-0")["1"]
    assert data["outcome"] == "f"
    assert data["steps"][0] == [1, "load procfs1", "p", 0.5]
    (mismatch,) = data["steps"][1][5]
    assert mismatch["diff"] == ["--- expected", "-HelloWorld", "+other"]
    assert data["steps"][1][6]["stderr"] == ["\\xff\\0"]
    oops, warning = data["findings"]
    assert oops["culprit"] == ["g_HelloWorld at HelloWorld.c:42", "HelloWorld();"]
    assert oops["lines"][1] == [
        "RIP: 0010:g+0x1/0x2 [m]",
        [
            "inline_HelloWorld at include/linux/x.h:3 (inlined)",
            "g_HelloWorld at HelloWorld.c:42: HelloWorld();",
        ],
    ]
    assert (warning["harmless"], warning["why"]) == (True, "expected by the scenario")
    assert data["left"] == ["/proc/HelloWorld"]
    assert data["taint"] == [12288, 12800]
    assert data["log"]["lines"] == [["[    4.039586] HelloWorld", 1], ["[    4.1] other"]]


def test_a_hang_and_a_failed_build_are_explained() -> None:
    hang = Page(render_html(HUNG)).data("kernel-0")["0"]["hang"]
    assert hang["stacks"][0]["name"] == "cat (pid 12)"
    assert hang["stacks"][0]["about"] == "of the step, state S"
    assert hang["stacks"][0]["lines"][2][1] == ["f at HelloWorld.c:35: HelloWorld();"]
    build = Page(render_html(NOT_BUILT)).data("kernel-0")["0"]["build"]
    assert build["excerpt"] == ["   12 | from(timer);", "      | ^"]
    assert build["place"] == "old: old.c:12:9"
    assert build["advice"].startswith("likely: ")


def test_marks_are_found_with_stamps_and_in_order() -> None:
    finding = Finding("warning", "b", 0, 1, ("b", "c\x07"))
    lines = ("[    1.000000] a", "[    1.000001] b", "c\\x07", "b", "c\\x07", "b")
    assert find_marks(lines, (finding, finding)) == {1: 0, 2: 0, 3: 1, 4: 1}
    assert find_marks(lines, (replace(finding, lines=("b", "b")),)) == {}


# --- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\nb", "\u202e"])
def test_a_place_outside_of_the_run_is_no_link(path: str) -> None:
    assert "href" not in evidence_link(path, "x")


def test_links_are_quoted() -> None:
    assert evidence_link('k/a b"<', "x") == '<a href="./k/a%20b%22%3C">x</a>'
    assert evidence_link("javascript:x", "x") == '<a href="./javascript%3Ax">x</a>'
    assert anchor("6.1", "procfs1/greets") == "6.1/procfs1.greets"
    assert anchor("6.1", "a b/ü") == "6.1/a%20b.%C3%BC"


# --- it stays small ----------------------------------------------------------------------------


def test_what_there_is_no_room_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_DETAILS_BYTES", 2500)
    cells = Page(render_html(run(kernel(cell(Outcome.PASSED), failed_cell())))).data("kernel-0")
    assert "steps" in cells["1"]
    assert "left_out" not in cells["1"]
    monkeypatch.setattr(page_module, "MAX_DETAILS_BYTES", 100)
    cells = Page(render_html(run(kernel(cell(Outcome.PASSED), failed_cell())))).data("kernel-0")
    assert cells["1"]["left_out"] is True
    assert cells["1"]["reason"].startswith("step 2, run HelloWorld")
    long = replace(failed_cell(), reason="x" * 10_000)
    cells = Page(render_html(run(kernel(long)))).data("kernel-0")
    assert len(json.dumps(cells)) < 400


def test_one_cell_cannot_fill_the_page() -> None:
    noisy = Finding("warning", "w", 0, 1, ("x" * 5000,) * 1000)
    data = cell_data(replace(failed_cell(), findings=(noisy,) * 500), ("y" * 5000,) * 5000)
    assert len(json.dumps(data)) < 1_200_000
    assert data["more"] == ["490 more complaints of the kernel"]
    page = render_html(run(kernel(replace(failed_cell(), findings=(noisy,) * 500))))
    assert len(page) < 150_000


def test_many_failures_are_counted() -> None:
    cells = [replace(failed_cell(), scenario=f"a/{number}") for number in range(600)]
    page = render_html(run(kernel(*cells)))
    assert page.count("<li id=") == 500
    assert "… and 100 more, which the matrix above has." in page


# --- files -------------------------------------------------------------------------------------


def test_the_page_is_written_with_logs_from_the_runs_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cells/k1/greeting/fail"
    folder.mkdir(parents=True)
    (folder / "kernel.log").write_bytes(
        b"[    1.000000] said \xff</script>\n" + b"x" * MAX_LOG_BYTES
    )
    page = Page(write_html(EVERYTHING, tmp_path).read_text("utf-8"))
    log = page.data("kernel-0")["1"]["log"]["lines"]
    assert log[0] == ["[    1.000000] said \\xff</script>"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "above"])
def test_a_log_is_read_nowhere_else(tmp_path: Path, kind: str) -> None:
    run_dir = tmp_path / "run"
    folder = run_dir / "cells/k1/greeting/fail"
    folder.mkdir(parents=True)
    (tmp_path / "kernel.log").write_text("secret")
    result = EVERYTHING
    if kind == "link":
        (folder / "kernel.log").symlink_to(tmp_path / "kernel.log")
    elif kind == "pipe":
        subprocess.run(("mkfifo", folder / "kernel.log"), check=True)
    elif kind == "folder":
        (folder / "kernel.log").mkdir()
    else:
        up = replace(failed_cell(), evidence=Path(".."))
        result = run(kernel(up))
    assert not any(read_logs(result, run_dir).values())


def test_the_command_does_not_load_the_page_for_help() -> None:
    code = (
        "import sys; from orchestrator.doors.cli import build_parser; build_parser();"
        "print([m for m in sys.modules if 'reports' in m or m == 'sqlite3'])"
    )
    done = subprocess.run((sys.executable, "-c", code), check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
