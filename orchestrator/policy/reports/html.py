"""``report.html``: a run on one page, which needs nothing but a browser.

What stands in it without scripts: the verdict, the changes, the kernels, the matrix, and every
failure with its reason. The script (``assets/report.js``) adds what opens behind a cell, from JSON
in the page, one element for each kernel, parsed when it is first asked for.

All texts may come from a guest. Those in markup go through ``_text``, which is ``visible`` and
``html.escape``; those in JSON are ``visible`` and have no ``<``, so that no text ends an element.
The page's policy (CSP) allows the one script and the one style whose hashes it names, and nothing
else: no connection, no other file, no frame, no form.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import PurePosixPath
from urllib.parse import quote

from orchestrator.plan.outcome import (
    CellResult,
    KernelResult,
    Outcome,
    RunResult,
    judge_result,
)
from orchestrator.plan.visible import clip, visible
from orchestrator.policy.reports.boundaries import render_changes_in_full
from orchestrator.policy.reports.celldata import LETTERS, CellData, cell_data, summary_data
from orchestrator.policy.reports.details import SIGNS
from orchestrator.policy.reports.matrix import Mark, Matrix, make_matrix

MAX_DETAILS_BYTES = 24 << 20
"""How much may open behind cells. Those that did not pass come first; what is left out says so."""
MAX_CELL_BYTES = 256 << 10
MAX_LEFT_OUT = 150
"""How much of its reason is told of a cell for which there is no room."""
MAX_FAILURES = 500
"""How many failures stand in the page itself, each with its reason."""
MAX_REASON = 400
MAX_SEARCHED = 4000
"""How much of a scenario's reasons the filter looks in."""
MAX_CHANGES = 1000
"""How many lines are told of what changed."""
MAX_LAST_LINES = 40

Logs = Mapping[tuple[str, str], Sequence[str]]
"""Lines of the kernel log by kernel and scenario."""

_WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.ERROR: "not judged",
    Outcome.SKIPPED: "skipped",
}
_TOLD = (Outcome.FAILED, Outcome.ERROR)
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render_html(result: RunResult, logs: Logs | None = None, base: str = "") -> str:
    """The page. ``logs`` are those of cells that did not pass, as far as they are at hand.

    Links to evidence are relative: ``base`` is the way from the page to the run's folder, with a
    slash at its end; empty for a page in there.
    """
    base = quote(f"./{base}")
    matrix = make_matrix(result)
    style, script = _asset("report.css"), _asset("report.js")
    verdict = judge_result(result)
    parts = {
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "title": _text(f"{result.lab}: {verdict.message}"),
        "head": "".join(_head(result)),
        "changes": "".join(_changes(result)),
        "kernels": "".join(_kernels(matrix, base)),
        "matrix": "".join(_matrix(matrix)),
        "failures": "".join(_failures(matrix, base)),
        "data": "".join(_data(matrix, logs or {}, base)),
        "base": html.escape(base),
    }
    # In one go, so that no text of a guest is looked at for places to fill.
    return _PLACE.sub(lambda match: parts[match[1]], _asset("report.html"))


@functools.cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    # The hashes are of the elements' whole text, which is the asset's.
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _text(text: str, limit: int = 1000) -> str:
    return html.escape(clip(visible(text), limit))


def anchor(kernel: str, scenario: str) -> str:
    """What comes behind the ``#`` of a link to a cell: ``6.1/procfs1.greets``."""
    return quote(f"{visible(kernel)}/{visible(scenario).replace('/', '.')}", safe="/")


def evidence_link(path: str, name: str, base: str = "./") -> str:
    """A link to a file of the run's folder; only the name for a place outside of it."""
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not path.isprintable():
        return _text(path)
    return f'<a href="{html.escape(base + quote(path))}">{_text(name)}</a>'


# --- head ----------------------------------------------------------------------------------


def _head(result: RunResult) -> Iterator[str]:
    verdict = judge_result(result)
    tone = {0: "p", 1: "f"}.get(verdict.exit_status, "e")
    sign = {"p": "✓", "f": "✗", "e": "!"}[tone]
    yield f'<h1><span class="sign {tone}" aria-hidden="true">{sign}</span> '
    yield f"{_text(result.lab)}: {_text(verdict.message)}</h1>"
    if result.interrupted:
        yield '<p class="note" role="status">This run was ended before its time, or goes on: '
        yield "what was not judged by then is not here.</p>"
    yield '<ul class="counts">'
    for outcome in Outcome:
        count = result.count(outcome)
        yield f'<li class="{LETTERS[outcome]}"><b>{count}</b> {_WORDS[outcome]}</li>'
    yield "</ul><dl>"
    facts = {
        "run": result.run_id,
        "started": result.started,
        "took": f"{result.seconds:.1f} s",
        "accelerator": f"{result.accelerator} ({result.accelerator_reason})",
        "QEMU": result.qemu_version,
        "lab": result.lab_version,
    }
    if result.sandbox:
        facts["sandbox"] = result.sandbox
    if result.revision.name:
        facts["revision"] = f"{result.revision.name[:12]}{' and changes' * result.revision.dirty}"
    for name, value in facts.items():
        yield f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>"
    yield "</dl>"


def _changes(result: RunResult) -> Iterator[str]:
    lines = list(render_changes_in_full(result))[2:]  # without the title and the line below it
    notes = [note for use in result.allow if (note := use.note())]
    if lines:
        yield '<section aria-labelledby="changes"><h2 id="changes">What changed, and where</h2>'
        yield '<pre class="changes" tabindex="0" role="region" aria-labelledby="changes">'
        yield f"{_lines(lines[:MAX_CHANGES])}</pre>"
        if len(lines) > MAX_CHANGES:
            yield "<p>The rest is in report.txt.</p>"
        yield "</section>"
    if notes:
        yield '<section aria-labelledby="allow"><h2 id="allow">The allow-list</h2><ul>'
        yield from (f"<li>{_text(note)}</li>" for note in notes)
        yield "</ul></section>"


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(_text(line) for line in lines)


# --- kernels -------------------------------------------------------------------------------

_BAR = 160
_PHASES = ("boot", "build", "play")


def _kernels(matrix: Matrix, base: str) -> Iterator[str]:
    longest = max((sum(_spent(kernel)) for kernel in matrix.kernels), default=0.0)
    for kernel in matrix.kernels:
        release = kernel.identity.release if kernel.identity else "-"
        yield f'<tr><th scope="row">{_text(kernel.name)}</th><td>{_text(release)}</td>'
        for outcome in Outcome:
            count = sum(cell.outcome is outcome for cell in kernel.cells)
            yield f'<td class="n{"" if count else " none"}">{count}</td>'
        yield f'<td class="n">{sum(_spent(kernel)):.1f} s</td><td>{_bar(kernel, longest)}</td></tr>'
        if notes := "".join(_kernel_notes(kernel, base)):
            yield f'<tr class="about"><td colspan="8">{notes}</td></tr>'


def _spent(kernel: KernelResult) -> tuple[float, ...]:
    """Seconds of booting, building and playing."""
    played = sum(cell.seconds for cell in kernel.cells)
    return kernel.boot_seconds or 0.0, kernel.build_seconds or 0.0, played


def _bar(kernel: KernelResult, longest: float) -> str:
    spent = _spent(kernel)
    told = ", ".join(
        f"{name} {seconds:.1f} s" for name, seconds in zip(_PHASES, spent, strict=True)
    )
    rects, begin = [], 0.0
    for name, seconds in zip(_PHASES, spent, strict=True):
        width = _BAR * seconds / longest if longest else 0.0
        rects.append(
            f'<rect class="{name}" x="{begin:.1f}" y="0" width="{width:.1f}" height="10"/>'
        )
        begin += width
    return (
        f'<svg width="{_BAR}" height="10" role="img" aria-label="{told}"><title>{told}</title>'
        + "".join(rects)
        + "</svg>"
    )


def _kernel_notes(kernel: KernelResult, base: str) -> Iterator[str]:
    if kernel.error:
        yield f'<p class="e"><b>Error:</b> {_text(kernel.error)}</p>'
    if kernel.hint:
        yield f"<p>Hint: {_text(kernel.hint)}</p>"
    if kernel.evidence:
        yield f"<p>See {evidence_link(kernel.evidence, kernel.evidence, base)}</p>"
    if kernel.last_lines:
        yield f"<pre>{_lines(kernel.last_lines[-MAX_LAST_LINES:])}</pre>"
    notes = (kernel.boot_note, kernel.build_note, kernel.fork_note, *kernel.retried)
    yield from (f"<p>{_text(note)}</p>" for note in notes if note)
    for build in kernel.builds:
        if build.error:
            yield f"<p><b>{_text(build.name)} did not build:</b> {_text(build.error)}</p>"
    for finding in kernel.boot_findings[:10]:
        told = f"{finding.kind}: {finding.headline}"
        yield f"<p>Before any module was loaded: {_text(told)}</p>"


# --- the matrix ----------------------------------------------------------------------------

_MARK_WORDS = {
    Mark.CHANGED: "the outcome changes here",
    Mark.UNCERTAIN: "the change may be here",
    Mark.DISAGREE: "kernels of this version disagree",
}


def _matrix(matrix: Matrix) -> Iterator[str]:
    yield '<thead><tr><th scope="col">scenario</th>'
    for kernel in matrix.kernels:
        yield f'<th scope="col"><span>{_text(kernel.name)}</span></th>'
    yield "</tr></thead><tbody>"
    for scenario in matrix.scenarios:
        yield f'<tr><th scope="row"><span>{_text(scenario)}</span></th>'
        for kernel in matrix.kernels:
            yield _cell(matrix, kernel.name, scenario)
        yield "</tr>\n"
    yield "</tbody>"


def _cell(matrix: Matrix, kernel: str, scenario: str) -> str:
    cell = matrix.cells.get((kernel, scenario))
    mark = matrix.marks.get((kernel, scenario))
    letter = LETTERS[cell.outcome] if cell else "o"
    classes = f"{letter} {mark.value}" if mark else letter
    title = f' title="{_MARK_WORDS[mark]}"' if mark else ""
    if cell is None:
        return f"<td class={_class(classes)}{title}></td>"
    sign = SIGNS[cell.outcome]
    if cell.outcome in _TOLD:  # the others' links are the script's: there may be very many
        sign = f'<a href="#{html.escape(anchor(kernel, scenario))}" tabindex="-1">{sign}</a>'
    return f"<td class={_class(classes)}{title}>{sign}</td>"


def _class(classes: str) -> str:
    return f'"{classes}"' if " " in classes else classes


def _failures(matrix: Matrix, base: str) -> Iterator[str]:
    failed = [
        (kernel.name, cell)
        for scenario in matrix.scenarios
        for kernel in matrix.kernels
        if (cell := matrix.cells.get((kernel.name, scenario))) and cell.outcome in _TOLD
    ]
    if not failed:
        return
    yield '<section aria-labelledby="failures"><h2 id="failures">What did not pass</h2><ul>'
    for name, cell in failed[:MAX_FAILURES]:
        place = html.escape(anchor(name, cell.scenario))
        yield f'<li id="{place}"><span class="sign {LETTERS[cell.outcome]}">'
        yield f'{SIGNS[cell.outcome]}</span> <a href="#{place}">{_text(cell.scenario)} on '
        yield f"{_text(name)}</a> {_text(cell.reason, MAX_REASON)}{_evidence(cell, base)}</li>\n"
    yield "</ul>"
    if len(failed) > MAX_FAILURES:
        yield f"<p>… and {len(failed) - MAX_FAILURES} more, which the matrix above has.</p>"
    yield "</section>"


def _evidence(cell: CellResult, base: str) -> str:
    if cell.evidence is None:
        return ""
    folder = cell.evidence.as_posix()
    names = ("transcript.txt", "kernel.log")
    links = ", ".join(evidence_link(f"{folder}/{name}", name, base) for name in names)
    return f' <span class="files">{links}</span>'


# --- what opens behind cells ---------------------------------------------------------------


def _data(matrix: Matrix, logs: Logs, base: str) -> Iterator[str]:
    """An index of the matrix, then an element for each kernel with its cells by scenario."""
    index = {
        "base": base,
        "kernels": [visible(kernel.name) for kernel in matrix.kernels],
        "scenarios": [visible(scenario) for scenario in matrix.scenarios],
        "anchors": [visible(name).replace("/", ".") for name in matrix.scenarios],
        "reasons": _reasons(matrix),
    }
    yield _element("index", _json(index))
    chosen = _choose(matrix, logs)
    numbers = {scenario: number for number, scenario in enumerate(matrix.scenarios)}
    for number, kernel in enumerate(matrix.kernels):
        cells = ",".join(
            f'"{numbers[cell.scenario]}":{chosen[kernel.name, cell.scenario]}'
            for cell in kernel.cells
        )
        yield _element(f"kernel-{number}", f"{{{cells}}}")


def _reasons(matrix: Matrix) -> list[str]:
    """Of each scenario, all its reasons, for the filter to look in."""
    found: dict[str, dict[str, None]] = {}
    for (_, scenario), cell in matrix.cells.items():
        if cell.outcome in _TOLD:
            found.setdefault(scenario, {})[clip(visible(cell.reason), MAX_REASON)] = None
    joined = ("\n".join(found.get(scenario, ())) for scenario in matrix.scenarios)
    return [text[:MAX_SEARCHED] for text in joined]


def _choose(matrix: Matrix, logs: Logs) -> dict[tuple[str, str], str]:
    """The JSON of every cell: all of it as long as there is room, then what is least."""
    left = MAX_DETAILS_BYTES
    chosen = {}
    passed = {Outcome.FAILED: 0, Outcome.ERROR: 1, Outcome.SKIPPED: 2, Outcome.PASSED: 3}
    for key, cell in sorted(matrix.cells.items(), key=lambda item: passed[item[1].outcome]):
        text = _json(_named(cell, cell_data(cell, logs.get(key, ()))))
        if len(text) > min(left, MAX_CELL_BYTES):
            least = summary_data(replace(cell, reason=clip(cell.reason, MAX_LEFT_OUT)))
            text = _json({**_named(cell, least), "left_out": True})
        left -= min(left, len(text))
        chosen[key] = text
    return chosen


def _named(cell: CellResult, data: CellData) -> CellData:
    return {"outcome": LETTERS[cell.outcome], **data}


def _json(value: object) -> str:
    """JSON that can stand in a script element: ASCII, and no text of it ends the element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _element(name: str, text: str) -> str:
    return f'<script type="application/json" id="data-{name}">{text}</script>\n'
