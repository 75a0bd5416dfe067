/* Order rules by dragging their rows. The buttons in the rows need no script. */
(function () {
  "use strict";
  const form = document.getElementById("tracing-reorder");
  const body = document.querySelector("#result_list tbody");
  if (!form || !body) return;
  const rows = () => Array.from(body.querySelectorAll("tr"));
  const idOf = (row) => {
    const move = row.querySelector(".tracing-move");
    return move ? move.dataset.rule : "";
  };
  const before = rows().map(idOf).join(",");

  function save() {
    const ids = rows().map(idOf).filter(Boolean).join(",");
    if (ids === before) return;
    form.elements.ids.value = ids;
    form.submit();
  }

  let dragged = null;
  rows().forEach((row) => {
    row.draggable = true;
    row.addEventListener("dragstart", (event) => {
      // Text in a field can be dragged without its row.
      if (event.target !== row) return;
      dragged = row;
      row.classList.add("tracing-dragged");
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", idOf(row));
    });
    row.addEventListener("dragover", (event) => {
      if (!dragged || dragged === row) return;
      event.preventDefault();
      const half = row.getBoundingClientRect();
      const after = event.clientY > half.top + half.height / 2;
      body.insertBefore(dragged, after ? row.nextElementSibling : row);
    });
    row.addEventListener("drop", (event) => event.preventDefault());
    row.addEventListener("dragend", () => {
      row.classList.remove("tracing-dragged");
      dragged = null;
      save();
    });
  });
})();

// Show times in the browser's time zone.
const tracingLocalTime = (moment, precise) => {
  const two = (number) => String(number).padStart(2, "0");
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
  const time = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
  return `${day} ${time}${precise ? `.${String(moment.getMilliseconds()).padStart(3, "0")}` : ""}`;
};
const tracingLocalTimes = (within) => {
  within.querySelectorAll("time[datetime]:not([data-age]), text[data-moment]").forEach((element) => {
    const moment = new Date(element.dateTime || element.dataset.moment);
    if (Number.isNaN(moment.getTime())) return;
    element.textContent = tracingLocalTime(moment, "precise" in element.dataset);
    if (element.dateTime) element.title = element.dateTime;
  });
};

document.querySelectorAll("#tracing-processes, #tracing-calls").forEach(tracingLocalTimes);

// The search is in a drawer, which is open where there is room for it, and without scripts.
(function () {
  "use strict";
  const drawer = document.querySelector(".tracing-drawer");
  if (!drawer) return;
  const narrow = window.matchMedia("(max-width: 767px)");
  const fit = () => { drawer.open = !narrow.matches || drawer.querySelector(".tracing-error") !== null; };
  narrow.addEventListener("change", fit);
  fit();
})();

// The list: read times in the same time zone, and load new traces.
(function () {
  "use strict";
  const results = document.getElementById("tracing-results");
  if (!results) return;
  tracingLocalTimes(results);
  const form = document.querySelector(".tracing-search");
  // From and To are in the address as UTC, and in the fields as this browser's time.
  form.querySelectorAll("[data-moment]").forEach((field) => {
    const moment = /^\d{4}-\d{2}-\d{2}T[\d:.]+Z$/.test(field.value) ? new Date(field.value) : new Date(NaN);
    if (!Number.isNaN(moment.getTime())) field.value = tracingLocalTime(moment, moment.getMilliseconds() !== 0);
  });
  form.addEventListener("submit", () => {
    form.querySelectorAll("[data-moment]").forEach((field) => {
      const text = field.value.trim().replace(" ", "T");
      if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?$/.test(text)) return;
      const moment = new Date(text);
      if (!Number.isNaN(moment.getTime())) field.value = moment.toISOString();
    });
    // Keep the address short by leaving empty fields out. An empty service is sent: it means all services.
    form.querySelectorAll("input, select").forEach((field) => {
      if (field.name && !field.value && field.name !== "service") field.disabled = true;
    });
  });
  window.addEventListener("pageshow", () => form.querySelectorAll("input, select").forEach((field) => { field.disabled = false; }));

  // ----- A span of time, by dragging over the plot
  let brush = null;
  function ready() { results.querySelectorAll(".tracing-hint").forEach((hint) => { hint.hidden = false; }); }
  ready();
  // The place of the pointer in the plot, from 0 to 1.
  const along = (event) => {
    const { left, right } = brush.plot.dataset;
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(brush.plot.getScreenCTM().inverse()).x;
    return Math.min(1, Math.max(0, (x - left) / (right - left)));
  };
  results.addEventListener("pointerdown", (event) => {
    const plot = event.target.closest(".tracing-plot");
    if (!plot || event.button !== 0 || !event.isPrimary) return;
    brush = { plot, at: event.clientX, rect: null };
    brush.from = brush.to = along(event);
  });
  // A dot is a link, which the browser would drag away.
  results.addEventListener("dragstart", (event) => { if (brush) event.preventDefault(); });
  window.addEventListener("pointermove", (event) => {
    if (!brush || (!brush.rect && Math.abs(event.clientX - brush.at) < 5)) return;
    const { plot } = brush;
    if (!brush.rect) {
      brush.rect = plot.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
      brush.rect.setAttribute("class", "tracing-brush");
      brush.rect.setAttribute("height", plot.viewBox.baseVal.height);
    }
    brush.to = along(event);
    const scale = plot.dataset.right - plot.dataset.left;
    brush.rect.setAttribute("x", Number(plot.dataset.left) + scale * Math.min(brush.from, brush.to));
    brush.rect.setAttribute("width", scale * Math.abs(brush.to - brush.from));
  });
  function stopBrush() {
    if (brush && brush.rect) brush.rect.remove();
    brush = null;
  }
  window.addEventListener("pointercancel", stopBrush);
  window.addEventListener("keydown", (event) => { if (event.key === "Escape") stopBrush(); });
  window.addEventListener("pointerup", () => {
    const done = brush;
    stopBrush();
    if (!done || !done.rect || done.from === done.to) return;
    // The click that follows on a dot is the end of the drag.
    window.addEventListener("click", (event) => event.preventDefault(), { capture: true, once: true });
    const [first, last] = [Number(done.plot.dataset.first), Number(done.plot.dataset.last)];
    const moment = (part, round) => new Date(round(first + part * (last - first))).toISOString();
    const address = new URL(window.location.href);
    ["part", "before", "within"].forEach((name) => address.searchParams.delete(name));
    address.searchParams.set("start", moment(Math.min(done.from, done.to), Math.floor));
    address.searchParams.set("end", moment(Math.max(done.from, done.to), Math.ceil));
    window.location.assign(address);
  });

  // ----- How long ago, while the page is open
  const units = [["day", 86400, 2 * 86400], ["hour", 3600, 3600], ["minute", 60, 60], ["second", 1, 0]];
  const format = new Intl.RelativeTimeFormat(document.documentElement.lang || undefined, { style: "short" });
  window.setInterval(() => results.querySelectorAll("time[data-age]").forEach((element) => {
    const age = Math.max(0, (Date.now() - new Date(element.dateTime).getTime()) / 1000);
    const [unit, size] = units.find((one) => age >= one[2]) || [];
    if (unit) element.textContent = format.format(-Math.floor(age / size), unit);
  }), 10000);

  const live = document.getElementById("tracing-live");
  const status = document.getElementById("tracing-live-status");
  const every = 2000;
  let timer = 0;
  async function refresh() {
    const address = new URL(window.location.href);
    address.searchParams.set("part", "results");
    try {
      const answer = await fetch(address, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const text = await answer.text();
      if (!live.checked || brush) { schedule(); return; }
      const fresh = new DOMParser().parseFromString(text, "text/html").body;
      tracingLocalTimes(fresh);
      const newest = (element) => { const link = element.querySelector("tbody th a"); return link ? link.getAttribute("href") : ""; };
      status.textContent = newest(fresh) !== newest(results) ? status.dataset.new : "";
      // Keep the focus on the link of the same row.
      const links = () => Array.from(results.querySelectorAll("tbody a"));
      const focused = links().includes(document.activeElement) ? document.activeElement.href : null;
      results.replaceChildren(...fresh.childNodes);
      ready();
      const again = focused && links().find((link) => link.href === focused);
      if (again) again.focus();
    } catch (error) {
      status.textContent = status.dataset.lost;
    }
    schedule();
  }
  function schedule() {
    window.clearTimeout(timer);
    // Don't load anything while the page is hidden.
    if (live.checked && !document.hidden) timer = window.setTimeout(refresh, every);
  }
  live.addEventListener("change", () => { if (live.checked) refresh(); else schedule(); });
  document.addEventListener("visibilitychange", schedule);
})();

// Copy ids and statements.
const tracingCopyButtons = (within) => {
  within.querySelectorAll(".tracing-copy").forEach((button) => { button.hidden = false; });
};
(function () {
  "use strict";
  tracingCopyButtons(document);
  async function copy(text) {
    // Only secure contexts have a clipboard: https, or this machine.
    if (navigator.clipboard) { await navigator.clipboard.writeText(text); return; }
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) throw new Error("not copied");
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".tracing-copy");
    if (!button) return;
    const { copy: text, copyAll: all } = button.dataset;
    const found = all ? Array.from(document.querySelectorAll(all), (one) => one.textContent).join(";\n\n") : text ?? button.closest("tr").querySelector(".tracing-sql").textContent;
    const words = button.textContent;
    try { await copy(found); button.textContent = "✓"; } catch (error) { button.textContent = "✗"; }
    window.setTimeout(() => { button.textContent = words; }, 1500);
  });
})();

// One trace.
(function () {
  "use strict";
  document.querySelectorAll(".tracing-facts, .tracing-detail").forEach(tracingLocalTimes);
  const table = document.querySelector(".tracing-waterfall[role=treegrid]");
  const tools = document.getElementById("tracing-tools");
  if (!table || !tools) return;
  document.querySelectorAll(".tracing-scripted").forEach((element) => { element.hidden = false; });
  // This link is for browsers without scripts.
  document.getElementById("tracing-unscripted").remove();
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const depthOf = (row) => Number(row.dataset.depth);
  const isOpen = (row) => row.getAttribute("aria-expanded") === "true";

  // ----- Opening and closing
  function show() {
    // Hide all rows below a closed row, up to the next row that is not deeper.
    let closedAt = Infinity;
    rows.forEach((row) => {
      const depth = depthOf(row);
      if (depth <= closedAt) closedAt = Infinity;
      row.hidden = depth > closedAt;
      const detail = row.nextElementSibling;
      if (detail && detail.classList.contains("tracing-detail-row")) detail.hidden = row.hidden;
      if (closedAt === Infinity && row.getAttribute("aria-expanded") === "false") closedAt = depth;
    });
  }
  function set(row, open) {
    if (!row.hasAttribute("aria-expanded") || isOpen(row) === open) return false;
    row.setAttribute("aria-expanded", String(open));
    return true;
  }

  // ----- Focus: one row at a time is in the order of Tab
  let current = rows[0];
  function focus(row, really) {
    current.tabIndex = -1;
    current = row;
    row.tabIndex = 0;
    if (really) row.focus();
  }
  rows.forEach((row) => {
    row.tabIndex = row === current ? 0 : -1;
    row.querySelectorAll("a, button").forEach((inner) => { inner.tabIndex = -1; });
  });
  const seen = () => rows.filter((row) => !row.hidden);

  // ----- The details of a span
  async function detail(row) {
    const next = row.nextElementSibling;
    if (next && next.classList.contains("tracing-detail-row")) { next.remove(); return; }
    const link = row.querySelector(".tracing-name a");
    if (!link) { if (set(row, !isOpen(row))) show(); return; }
    const holder = document.createElement("tr");
    holder.className = "tracing-detail-row";
    holder.setAttribute("role", "row");
    const cell = holder.insertCell();
    cell.colSpan = 4;
    cell.setAttribute("role", "gridcell");
    row.after(holder);
    try {
      const answer = await fetch(`${link.href}?part=1`, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html").body;
      tracingLocalTimes(parsed);
      tracingCopyButtons(parsed);
      cell.replaceChildren(...parsed.childNodes);
    } catch (error) {
      window.location.assign(link.href);
    }
  }

  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-depth]");
    if (!row) return;
    focus(row, false);
    if (event.target.closest(".tracing-toggle")) { set(row, !isOpen(row)); show(); return; }
    const link = event.target.closest(".tracing-name a");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); detail(row); }
    else if (!link && event.target.closest(".tracing-name")) detail(row);
  });

  body.addEventListener("keydown", (event) => {
    if (event.target !== current) return;
    const visible = seen();
    const at = visible.indexOf(current);
    const go = { ArrowDown: visible[at + 1], ArrowUp: visible[at - 1], Home: visible[0], End: visible[visible.length - 1] }[event.key];
    if (["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) { if (go) focus(go, true); }
    else if (event.key === "ArrowRight") { if (set(current, true)) show(); else if (visible[at + 1] && depthOf(visible[at + 1]) > depthOf(current)) focus(visible[at + 1], true); }
    else if (event.key === "ArrowLeft") {
      if (set(current, false)) show();
      else { const above = visible.slice(0, at).reverse().find((row) => depthOf(row) < depthOf(current)); if (above) focus(above, true); }
    }
    else if (event.key === "Enter") detail(current);
    else return;
    event.preventDefault();
  });

  // ----- The width of the names: dragged, by the arrow keys, and kept for the next trace
  const column = document.getElementById("tracing-col-name");
  const handle = document.getElementById("tracing-handle");
  const [narrow, wide] = [Number(handle.getAttribute("aria-valuemin")), Number(handle.getAttribute("aria-valuemax"))];
  const kept = "django-tracing-names";
  let share = 0;
  function widen(percent) {
    share = Math.min(wide, Math.max(narrow, percent));
    column.style.width = `${share}%`;
    handle.setAttribute("aria-valuenow", String(Math.round(share)));
  }
  function keep() {
    // Storage may be full or forbidden.
    try { if (share) window.localStorage.setItem(kept, String(Math.round(share))); else window.localStorage.removeItem(kept); } catch (error) { /* not kept */ }
  }
  function reset() {
    share = 0;
    column.style.width = "";
    const width = handle.parentElement.getBoundingClientRect().width / table.getBoundingClientRect().width;
    handle.setAttribute("aria-valuenow", String(Math.round(100 * width)));
  }
  handle.hidden = false;
  reset();
  try { const last = Number(window.localStorage.getItem(kept)); if (last) widen(last); } catch (error) { /* not kept */ }
  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = table.getBoundingClientRect();
    widen((100 * (event.clientX - box.left)) / box.width);
  });
  handle.addEventListener("pointerup", keep);
  handle.addEventListener("dblclick", () => { reset(); keep(); });
  handle.addEventListener("keydown", (event) => {
    const now = Number(handle.getAttribute("aria-valuenow"));
    const to = { ArrowLeft: now - 5, ArrowRight: now + 5, Home: narrow, End: wide }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    widen(to);
    keep();
  });

  // ----- What the colors stand for: the bars have the classes of both palettes
  const colored = table.closest(".tracing-colored");
  const choices = Array.from(document.querySelectorAll(".tracing-choice"));
  choices.forEach((choice) => choice.addEventListener("click", (event) => {
    event.preventDefault();
    colored.dataset.color = choice.dataset.color;
    choices.forEach((other) => other.removeAttribute("aria-current"));
    choice.setAttribute("aria-current", "true");
  }));

  // ----- Zoom: all bars are drawn on one scale of a thousand
  const total = Number(table.dataset.total);
  const bars = Array.from(table.querySelectorAll(".tracing-bars"));
  const ticks = Array.from(table.querySelectorAll(".tracing-ticks span"));
  let from = 0;
  let width = 1000;
  function words(nanoseconds) {
    if (nanoseconds < 1) return "0 ms";
    const [unit, scale] = [["s", 1e9], ["ms", 1e6], ["µs", 1e3]].find((one) => nanoseconds >= 0.9995 * one[1]) || ["ns", 1];
    const value = nanoseconds / scale;
    return `${value.toFixed(scale === 1 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)} ${unit}`;
  }
  function zoom(newFrom, newWidth) {
    width = Math.min(1000, Math.max(0.01, newWidth));
    from = Math.min(1000 - width, Math.max(0, newFrom));
    bars.forEach((bar) => bar.setAttribute("viewBox", `${from} 0 ${width} 20`));
    ticks.forEach((tick, number) => { tick.textContent = words((total * (from + (width * number) / 4)) / 1000); });
    const zoomed = width < 1000;
    tools.querySelectorAll("[data-zoomed]").forEach((button) => { button.hidden = !zoomed; });
    tools.querySelector("[data-do=out]").disabled = !zoomed;
    document.getElementById("tracing-zoomed").textContent = zoomed ? `${ticks[0].textContent} – ${ticks[4].textContent}` : "";
  }
  tools.addEventListener("click", (event) => {
    const wish = event.target.dataset.do;
    if (wish === "open" || wish === "close") { rows.forEach((row) => set(row, wish === "open")); if (wish === "close") set(rows[0], true); show(); }
    else if (wish === "in") zoom(from + width / 4, width / 2);
    else if (wish === "out") zoom(from - width / 2, width * 2);
    else if (wish === "left") zoom(from - width / 2, width);
    else if (wish === "right") zoom(from + width / 2, width);
    else if (wish === "reset") zoom(0, 1000);
  });
  let dragged = null;
  const place = (event) => {
    const box = dragged.getBoundingClientRect();
    return from + (width * Math.min(box.width, Math.max(0, event.clientX - box.left))) / box.width;
  };
  body.addEventListener("pointerdown", (event) => {
    const cell = event.target.closest(".tracing-time");
    if (!cell || event.button !== 0) return;
    dragged = cell;
    cell.dataset.from = String(place(event));
    event.preventDefault();
  });
  // A touch that scrolls the page is no drag.
  window.addEventListener("pointercancel", () => { dragged = null; });
  window.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const [begin, end] = [Number(dragged.dataset.from), place(event)].sort((one, other) => one - other);
    dragged = null;
    if (end - begin > width / 100) zoom(begin, end - begin);
  });
})();
