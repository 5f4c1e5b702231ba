"""A report as text, Markdown and SVG: made of the report alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from tests.bench.values import Judged, Report, Series

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"


def number(value: float | None) -> str:
    """Three digits that count, and no exponent; ``-`` for nothing."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def ratio(value: float | None) -> str:
    """A ratio as one says it: ``1/20`` for what is smaller, ``3.0x`` for what is larger."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"1/{number(1 / value)}" if 0 < value < 1 else f"{number(value)}x"


def _spread(series: Series) -> str:
    spread = series.spread
    return "-" if spread is None else f"{number(spread[0])}..{number(spread[1])}"


def _beside(report: Report, name: str) -> str:
    other = report.beside.get(name)
    if other is None or (value := report.ratio(name, other)) is None:
        return "-"
    return f"{ratio(value)} of {other}"


def _target(judged: Judged, unit: str) -> str:
    target = judged.target
    if target.of:
        wanted, found = f"<= 1/{1 / target.at_most:.3g} of {target.of}", ratio(judged.value)
    else:
        wanted, found = f"<= {target.at_most:g} {unit}".rstrip(), ""
    how = {True: "met", False: "MISSED", None: "not known"}[judged.met]
    return f"{wanted}: {how}" + (f" ({found})" if found and judged.value is not None else "")


def _rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each figure that has numbers: what, median, spread, count, ratio, targets."""
    rows: list[tuple[str, ...]] = []
    for series in report.series:
        if not series.samples:
            continue
        name, unit = series.figure.name, series.figure.unit
        mine = [each for each in report.judge() if each.target.figure == name]
        rows.append(
            (
                name,
                series.figure.title,
                f"{number(series.median)} {unit}".rstrip(),
                _spread(series),
                str(len(series.samples)),
                _beside(report, name),
                "; ".join(_target(each, unit) for each in mine) or "-",
            )
        )
    return rows


HEAD = ("figure", "what", "median", "min..max", "n", "beside", "target without KVM, two cores")


def _lacking(report: Report) -> list[str]:
    """What has no number, or not all of them, and why."""
    lines = []
    for series in report.series:
        name = series.figure.name
        if series.absent:
            lines.append(f"not measured  {name}: {series.absent}")
        lines += [f"FAILED  {name}: {failure}" for failure in series.failures]
    return lines


def _about(report: Report) -> list[str]:
    host = report.host
    lines = [
        f"{report.started}, commit {report.commit}, {report.seconds:.0f} s, "
        f"arguments: {' '.join(report.arguments) or 'none'}",
        f"{host.processor}, {host.cores} processors, {host.memory_mib} MiB, {host.system}, "
        f"Linux {host.kernel}, QEMU {host.qemu}, Python {host.python}",
        f"accelerator: {host.accelerator} ({host.reason})",
        f"others had {report.busy:.0%} of all processors in the median of the groups, "
        f"{max(report.others, default=0.0):.0%} at most",
    ]
    return lines + list(report.notes)


def loaded_text(report: Report) -> str:
    """What is said of numbers from a machine that others used; empty for all others."""
    if not report.is_loaded:
        return ""
    return (
        f"FROM A LOADED MACHINE: others used {report.busy:.0%} of it. The absolute figures are "
        "too high, and say nothing; ratios say little."
    )


def render_table(report: Report) -> str:
    """The table for a terminal, what is lacking below it."""
    rows = [HEAD, *_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = ["  ".join((*map(str.ljust, row[:-1], widths), row[-1])) for row in rows]
    loaded = loaded_text(report)
    blocks = [lines, _lacking(report), _about(report), [loaded] if loaded else []]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def render_markdown(report: Report, plot: str = "") -> str:
    """The same for a page; ``plot`` is where the plot is, seen from there."""
    loaded = loaded_text(report)
    parts = [f"**{loaded}**\n"] if loaded else []
    parts += ["\n".join(f"- {_markdown(line)}" for line in _about(report)) + "\n"]
    parts += ["\n".join(_markdown_table([HEAD, *_rows(report)])) + "\n"]
    if lacking := _lacking(report):
        parts += ["\n".join(f"- {_markdown(line)}" for line in lacking) + "\n"]
    if plot:
        parts += [f"![the figures on a logarithmic axis, with their spread]({plot})\n"]
    return "\n".join(parts)


def _markdown_table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    for index, row in enumerate(rows):
        yield "| " + " | ".join(_markdown(cell) for cell in row) + " |"
        if index == 0:
            yield "|" + "---|" * len(row)


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def put_between_marks(page: str, text: str) -> str:
    """The page with ``text`` between its two marks. Raises ``ValueError`` where they are not."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page does not have {BEGIN} and then {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


# --- the plot ------------------------------------------------------------------------------

BAR = 22
LEFT = 330
WIDTH = 900
TOP = 34


def render_svg(report: Report) -> str:
    """Bars with their spread on logarithmic axes, one for each unit; a line where the target is."""
    units = list(dict.fromkeys(series.figure.unit for series in report.series))
    parts: list[str] = []
    y = 10.0
    for unit in units:
        drawn = [
            each
            for each in report.series
            if each.figure.unit == unit and each.spread is not None and each.spread[1] > 0
        ]
        if drawn:
            parts += _panel(report, unit, drawn, y)
            y += TOP + BAR * len(drawn) + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{y:.0f}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten that enclose some numbers above 0; two different ones at the least."""
    positive = [value for value in values if value > 0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def _panel(report: Report, unit: str, drawn: Sequence[Series], y: float) -> list[str]:
    limits = {each.figure: each.at_most for each in report.targets if not each.of and each.at_most}
    names = [each.figure.name for each in drawn]
    all_values = [value for each in drawn for value in each.values]
    all_values += [limit for name, limit in limits.items() if name in names]
    low, high = decades(all_values)

    def x(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - 70)

    bottom = y + TOP + BAR * len(drawn)
    parts = [f'<text x="10" y="{y + 14:.0f}" font-weight="bold">{escape(unit or "count")}</text>']
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(
            f'<line x1="{at:.1f}" y1="{y + TOP - 8:.0f}" x2="{at:.1f}" y2="{bottom:.0f}" '
            f'stroke="#ddd"/><text x="{at:.1f}" y="{y + TOP - 12:.0f}" '
            f'text-anchor="middle" fill="#666">{10.0**power:g}</text>'
        )
    for row, series in enumerate(drawn):
        parts += _bar(series, limits.get(series.figure.name), x, y + TOP + row * BAR)
    return parts


def _bar(series: Series, limit: float | None, x: Callable[[float], float], y: float) -> list[str]:
    assert series.median is not None, "what has no numbers is not drawn"
    assert series.spread is not None, "what has no numbers is not drawn"
    low, high = (x(value) for value in series.spread)
    end, middle = x(series.median), y + BAR / 2
    parts = [
        f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">'
        f"{escape(series.figure.title)}</text>",
        f'<rect x="{LEFT}" y="{y + 4:.1f}" width="{max(1.0, end - LEFT):.1f}" '
        f'height="{BAR - 8}" fill="#7fa8d0"/>',
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8'
        f'M{high:.1f} {middle - 4:.1f}v8" stroke="#234" fill="none"/>',
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 4:.1f}">{number(series.median)}</text>',
    ]
    if limit is not None:
        at = x(limit)
        parts.append(
            f'<line x1="{at:.1f}" y1="{y + 1:.1f}" x2="{at:.1f}" y2="{y + BAR - 1:.1f}" '
            'stroke="#c33" stroke-width="2"/>'
        )
    return parts
