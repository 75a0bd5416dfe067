"use strict";

const { token, traceUrl } = document.body.dataset;
/** How many characters of an answer are shown. */
const SHOWN = 600;

function add(parent, name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

/** Show the link to the trace that the header "traceresponse" names: version, trace, span, flags. */
function addTrace(line, header) {
  const id = (header || "").split("-")[1];
  if (!id) {
    add(line, "span", "no trace", "note");
  } else if (!traceUrl) {
    add(line, "code", id);
  } else {
    const link = add(line, "a", `Trace ${id.slice(0, 8)}`);
    link.href = traceUrl.replace("TRACE_ID", id);
    link.target = "_blank";
    link.rel = "noopener";
  }
}

async function send(button) {
  const { method, path } = button.dataset;
  const answer = button.closest("li").querySelector(".answer");
  button.disabled = true;
  answer.replaceChildren();
  const line = document.createElement("p");
  try {
    const started = performance.now();
    const response = await fetch(path, { method, headers: { Authorization: `Bearer ${token}` } });
    const body = await response.text();
    const took = Math.round(performance.now() - started);
    add(line, "span", `${response.status} ${response.statusText}`, `status ${response.ok ? "good" : "bad"}`);
    add(line, "span", `${took} ms`, "note");
    addTrace(line, response.headers.get("traceresponse"));
    answer.append(line);
    const isText = !(response.headers.get("content-type") || "").startsWith("text/html");
    if (isText) add(answer, "pre", body.length > SHOWN ? `${body.slice(0, SHOWN)} …` : body);
  } catch (error) {
    add(line, "span", `No answer: ${error.message}`, "status bad");
    answer.append(line);
  } finally {
    button.disabled = false;
  }
}

const buttons = [...document.querySelectorAll("button.send")];
for (const button of buttons) button.addEventListener("click", () => send(button));

document.getElementById("all").addEventListener("click", async (event) => {
  event.target.disabled = true;
  for (const button of buttons) await send(button);
  event.target.disabled = false;
});
