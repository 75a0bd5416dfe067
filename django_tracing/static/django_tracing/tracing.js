/* Rules are ordered by dragging their rows, or by the buttons in them, which a keyboard reaches. */
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

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-move]");
    if (!button) return;
    event.preventDefault();
    const row = button.closest("tr");
    if (button.dataset.move === "up" && row.previousElementSibling) body.insertBefore(row, row.previousElementSibling);
    else if (button.dataset.move === "down" && row.nextElementSibling) body.insertBefore(row.nextElementSibling, row);
    save();
  });

  let dragged = null;
  rows().forEach((row) => {
    row.draggable = true;
    row.addEventListener("dragstart", (event) => {
      // Text in a field is dragged by itself.
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
