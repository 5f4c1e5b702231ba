"use strict";
// What opens behind the cells of the matrix. Texts come from guests: they get into the page as
// text (textContent, append) and never as markup.
(() => {
const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("data-index").textContent);
const table = byId("matrix");
const rows = Array.from(table.tBodies[0].rows);
const panel = byId("panel");
const WORDS = { p: "passed", f: "failed", e: "not judged", s: "skipped" };
const SIGNS = { p: "ok", f: "FAIL", e: "ERR", s: "-" };
const parsed = new Map();
let current = null;  // the cell that the arrows are at
let opened = null;   // the one that is open

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function cellsOf(column) {
  if (!parsed.has(column)) parsed.set(column, JSON.parse(byId(`data-kernel-${column}`).textContent));
  return parsed.get(column);
}

// --- places: a cell's link, as in #6.1/procfs1.greets ------------------------------------

const columnOf = new Map(index.kernels.map((name, number) => [name, number]));
const rowOf = new Map(index.anchors.map((name, number) => [name, number]));
index.scenarios.forEach((name, number) => rowOf.set(name, number));

function hashOf(row, column) {
  const quoted = (text) => encodeURIComponent(text).replace(/%2F/g, "/");
  return `#${quoted(index.kernels[column])}/${quoted(index.anchors[row])}`;
}

function cellOfHash() {
  let place;
  try {
    place = decodeURIComponent(location.hash.slice(1));
  } catch {
    return null;
  }
  const cut = place.indexOf("/");
  const column = columnOf.get(place.slice(0, cut));
  const row = rowOf.get(place.slice(cut + 1));
  return cut < 0 || column === undefined || row === undefined ? null : rows[row].cells[column + 1];
}

const placeOf = (cell) => [rows.indexOf(cell.parentElement), cell.cellIndex - 1];
const letterOf = (cell) => cell.className[0];
const failed = (cell) => letterOf(cell) === "f" || letterOf(cell) === "e";

// --- the panel ---------------------------------------------------------------------------

function fileLink(folder, name) {
  const path = folder.split("/").concat(name.split("/"));
  const link = make("a", "", name || folder);
  link.href = index.base + path.map(encodeURIComponent).join("/");
  return link;
}

const inside = (folder) => folder && !folder.startsWith("/") && !folder.split("/").includes("..");

function lineOf(text, className) {
  return make("span", className ? `line ${className}` : "line", text || " ");
}

function diffLine(text) {
  if (/^(---|\+\+\+|@@)/.test(text)) return lineOf(text, "soft");
  return lineOf(text, text[0] === "-" ? "minus" : text[0] === "+" ? "plus" : "");
}

function block(lines) {
  return make("pre", "", ...lines);
}

function decoded(lines) {
  return block(lines.flatMap(([text, code]) =>
    [lineOf(text), ...(code || []).map((each) => lineOf(`↳ ${each}`, "code"))]));
}

function folded(title, open, ...children) {
  const element = make("details", "", make("summary", "", title), ...children);
  element.open = open;
  return element;
}

function stepItem(step, longest) {
  const [number, title, letter, seconds = 0, reason = "", mismatches = [], command = null] = step;
  const bar = make("div");
  bar.style.width = longest ? `${(100 * seconds) / longest}%` : "0";
  const track = make("div", "track", bar);
  track.setAttribute("aria-hidden", "true");
  const row = make("div", "row", make("span", "seconds", `${number}.`),
    make("span", `sign ${letter}`, SIGNS[letter]), make("span", "", title), track,
    make("span", "seconds", `${seconds.toFixed(2)} s`));
  const item = make("li", "", row);
  if (reason) item.append(make("p", "mismatch", reason));
  for (const each of mismatches) {
    item.append(make("div", "mismatch", make("b", "", each.what), `: ${each.message}`,
      each.diff.length ? block(each.diff.map(diffLine)) : null));
  }
  if (command) item.append(make("div", "mismatch", commandOf(command)));
  return item;
}

function commandOf(command) {
  const parts = [make("p", "", make("code", "", command.command), ` gave ${command.status}`)];
  for (const name of ["stdout", "stderr"]) {
    if (command[name].length) parts.push(make("b", "", name), block(command[name].map((text) => lineOf(text))));
  }
  return folded("what it printed", false, ...parts);
}

function culpritOf(culprit) {
  return culprit ? make("p", "culprit", `First in a module: ${culprit[0]}`,
    culprit[1] ? block([lineOf(culprit[1], "code")]) : null) : null;
}

function findingItem(finding) {
  const title = `${finding.kind}: ${finding.headline}${finding.why ? ` (${finding.why})` : ""}`;
  return folded(title, !finding.harmless,
    finding.modules ? make("p", "", `In its traces: ${finding.modules}`) : null,
    culpritOf(finding.culprit), decoded(finding.lines));
}

function logOf(log, findings) {
  const lines = log.lines.map(([text, finding]) => {
    const line = lineOf(finding === undefined ? text : `▸ ${text}`, finding === undefined ? "" : "marked");
    if (finding !== undefined && findings[finding]) line.title = findings[finding].headline;
    return line;
  });
  if (log.cut) lines.push(lineOf(`… ${log.cut} more lines are in kernel.log`, "soft"));
  return folded("Kernel log; complaints are marked ▸", false, block(lines));
}

function section(title, ...children) {
  return [make("h3", "", title), ...children];
}

function parts(data) {
  const list = [];
  if (data.left_out) {
    list.push(make("p", "note", "There was no room for more of this cell in the page: see its files, and report.txt."));
  }
  if (data.build) {
    list.push(...section("It does not build", make("p", "culprit", `${data.build.place}: ${data.build.message}`),
      data.build.excerpt.length ? block(data.build.excerpt.map((text) => lineOf(text))) : null,
      data.build.advice ? make("p", "", data.build.advice) : null));
  }
  if (data.findings) list.push(...section("What the kernel complained of", ...data.findings.map(findingItem)));
  if (data.hang) {
    list.push(...section(`Where step ${data.hang.step} was when it was given up`,
      data.hang.why ? make("p", "culprit", data.hang.why) : null,
      ...data.hang.stacks.map((stack) => folded(`${stack.name}${stack.about ? `, ${stack.about}` : ""}`, true,
        culpritOf(stack.culprit),
        stack.lines.length ? decoded(stack.lines) : make("p", "files", "No stack is known.")))));
  }
  if (data.steps) {
    const longest = Math.max(...data.steps.map((step) => step[3] || 0));
    list.push(...section("Steps", make("ol", "steps", ...data.steps.map((step) => stepItem(step, longest)))));
  }
  if (data.left) list.push(...section("Left behind", make("ul", "", ...data.left.map((text) => make("li", "", text)))));
  if (data.log) list.push(logOf(data.log, data.findings || []));
  for (const text of data.more || []) list.push(make("p", "", `… and ${text}`));
  if (data.taint) list.push(make("p", "files", `Taint before: ${data.taint[0] ?? "-"}, after: ${data.taint[1] ?? "-"}`));
  return list;
}

function filesOf(data) {
  const folder = data.evidence;
  if (!folder) return null;
  if (!inside(folder)) return make("p", "files", `Evidence: ${folder}`);
  const names = ["transcript.txt", "kernel.log", ...(data.hang ? ["tasks.txt"] : [])];
  return make("p", "files", "Evidence: ", ...names.flatMap((name) => [fileLink(folder, name), " "]),
    fileLink(folder, ""));
}

function open(cell) {
  const [row, column] = placeOf(cell);
  const data = cellsOf(column)[row];
  if (!data) return;
  const close = make("button", "", "Close");
  close.type = "button";
  close.addEventListener("click", shut);
  const title = make("h2", "", make("span", `sign ${data.outcome}`, SIGNS[data.outcome]),
    ` ${index.scenarios[row]} on ${index.kernels[column]}`);
  title.id = "panel-title";
  panel.replaceChildren(make("div", "top", title, close),
    make("p", "why", data.reason || `It ${WORDS[data.outcome]}.`, ` (${data.seconds.toFixed(2)} s)`),
    filesOf(data) || "", ...parts(data));
  if (opened) opened.removeAttribute("aria-selected");
  opened = cell;
  cell.setAttribute("aria-selected", "true");
  panel.hidden = false;
  panel.scrollTop = 0;
  place(cell, false);
  panel.focus({ preventScroll: true });
  if (location.hash !== hashOf(row, column)) history.replaceState(null, "", hashOf(row, column));
}

function shut() {
  if (panel.hidden) return;
  panel.hidden = true;
  history.replaceState(null, "", location.pathname + location.search);
  if (opened) {
    opened.removeAttribute("aria-selected");
    place(opened, true);
    opened = null;
  }
}

// --- keys --------------------------------------------------------------------------------

function place(cell, focus) {
  if (current) current.tabIndex = -1;
  current = cell;
  cell.tabIndex = 0;
  if (focus) cell.focus();
}

const seen = (row) => !row.hidden;

function step(direction, list, from) {
  for (let at = from + direction; at >= 0 && at < list.length; at += direction) {
    if (seen(list[at])) return list[at];
  }
  return null;
}

function move(key) {
  const row = current.parentElement;
  const cells = row.cells;
  const at = current.cellIndex;
  if (key === "ArrowLeft" && at > 1) return cells[at - 1];
  if (key === "ArrowRight" && at < cells.length - 1) return cells[at + 1];
  if (key === "Home") return cells[1];
  if (key === "End") return cells[cells.length - 1];
  const next = key === "ArrowUp" || key === "ArrowDown"
    ? step(key === "ArrowUp" ? -1 : 1, rows, rows.indexOf(row)) : null;
  return next ? next.cells[at] : null;
}

function nextFailed(direction) {
  const all = rows.filter(seen).flatMap((row) => Array.from(row.cells).slice(1)).filter((cell) => failed(cell) || cell === current);
  const at = all.indexOf(current);
  const found = at < 0 ? all[0] : all[at + direction];
  return found && failed(found) ? found : null;
}

const MOVES = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("help").open) return;
  if (event.key === "Escape") return shut();
  const typing = /^(INPUT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (typing || !current) return;
  const inMatrix = table.contains(event.target);
  if (event.key === "?") byId("help").showModal();
  else if (event.key === "/") byId("text").focus();
  else if (event.key === "n" || event.key === "p") {
    const found = nextFailed(event.key === "n" ? 1 : -1);
    if (found && panel.hidden) place(found, true);
    else if (found) open(found);
  } else if (inMatrix && event.key === "Enter") open(current);
  else if (inMatrix && MOVES.includes(event.key)) {
    const found = move(event.key);
    if (found) place(found, true);
  } else return;
  event.preventDefault();
}

function onClick(event) {
  const link = event.target.closest("a[href^='#']");
  const cell = event.target.closest("#matrix td");
  if (cell && letterOf(cell) !== "o") {
    event.preventDefault();
    open(cell);
  } else if (link && link.hash === location.hash) {
    const found = cellOfHash();  // the hash does not change, so nobody else hears of it
    if (found) open(found);
  }
}

// --- filters -----------------------------------------------------------------------------

const rowFailed = rows.map((row) => Array.prototype.some.call(row.cells, failed));
const haystacks = index.scenarios.map((name, number) => `${name}\n${index.reasons[number]}`.toLowerCase());

function filter() {
  const wanted = byId("text").value.toLowerCase().split(" ").filter(Boolean);
  const only = byId("failed").checked;
  let shown = 0;
  rows.forEach((row, number) => {
    row.hidden = (only && !rowFailed[number]) || !wanted.every((word) => haystacks[number].includes(word));
    shown += row.hidden ? 0 : 1;
  });
  byId("shown").textContent = shown === rows.length ? `${shown} scenarios` : `${shown} of ${rows.length} scenarios`;
  if (current && current.parentElement.hidden) {
    const row = rows.find(seen);
    if (row) place(row.cells[1], false);
  }
}

// --- the beginning -----------------------------------------------------------------------

table.setAttribute("role", "grid");
table.setAttribute("aria-label", "Outcomes of scenarios by kernel");
if (index.kernels.some((name) => name.length > 7)) table.tHead.classList.add("tall");
byId("filters").hidden = false;
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("text").addEventListener("input", filter);
byId("failed").addEventListener("change", filter);
byId("help-button").addEventListener("click", () => byId("help").showModal());
document.addEventListener("keydown", onKey);
document.addEventListener("click", onClick);
addEventListener("hashchange", () => {
  const cell = cellOfHash();
  if (cell) open(cell);
});
filter();
if (rows.length && index.kernels.length) {
  place(rows[0].cells[1], false);
  const cell = cellOfHash();
  if (cell) open(cell);
}
})();
