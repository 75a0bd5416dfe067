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
const tracingLocalTimes = (within) => {
  within.querySelectorAll("time[datetime], text[data-moment]").forEach((element) => {
    const moment = new Date(element.dateTime || element.dataset.moment);
    if (Number.isNaN(moment.getTime())) return;
    const two = (number) => String(number).padStart(2, "0");
    const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
    const time = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
    const rest = "precise" in element.dataset ? `.${String(moment.getMilliseconds()).padStart(3, "0")}` : "";
    element.textContent = `${day} ${time}${rest}`;
    if (element.dateTime) element.title = element.dateTime;
  });
};

document.querySelectorAll("#tracing-processes, #tracing-calls").forEach(tracingLocalTimes);

// The list: read times in the same time zone, and load new traces.
(function () {
  "use strict";
  const results = document.getElementById("tracing-results");
  if (!results) return;
  tracingLocalTimes(results);
  const form = document.querySelector(".tracing-search");
  form.addEventListener("submit", () => {
    form.querySelectorAll("[data-moment]").forEach((field) => {
      const text = field.value.trim().replace(" ", "T");
      if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$/.test(text)) return;
      const moment = new Date(text);
      if (!Number.isNaN(moment.getTime())) field.value = moment.toISOString();
    });
    // Keep the address short by leaving empty fields out. An empty service is sent: it means all services.
    form.querySelectorAll("input, select").forEach((field) => {
      if (field.name && !field.value && field.name !== "service") field.disabled = true;
    });
  });
  window.addEventListener("pageshow", () => form.querySelectorAll("input, select").forEach((field) => { field.disabled = false; }));

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
      if (!live.checked) return;
      const fresh = new DOMParser().parseFromString(text, "text/html").body;
      tracingLocalTimes(fresh);
      const newest = (element) => { const link = element.querySelector("tbody th a"); return link ? link.getAttribute("href") : ""; };
      status.textContent = newest(fresh) !== newest(results) ? status.dataset.new : "";
      // Keep the focus on the link of the same row.
      const links = () => Array.from(results.querySelectorAll("tbody a"));
      const focused = links().includes(document.activeElement) ? document.activeElement.href : null;
      results.replaceChildren(...fresh.childNodes);
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

// One trace.
(function () {
  "use strict";
  document.querySelectorAll(".tracing-facts, .tracing-detail").forEach(tracingLocalTimes);
  const table = document.querySelector(".tracing-waterfall[role=treegrid]");
  const tools = document.getElementById("tracing-tools");
  if (!table || !tools) return;
  tools.hidden = false;
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
  window.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const [begin, end] = [Number(dragged.dataset.from), place(event)].sort((one, other) => one - other);
    dragged = null;
    if (end - begin > width / 100) zoom(begin, end - begin);
  });
})();
