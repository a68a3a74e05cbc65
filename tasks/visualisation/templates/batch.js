"use strict";
// Sorts and filters the table of slides; without it the table is complete, in the report's order.
(() => {
  const section = document.getElementById("slides");
  const body = section && section.querySelector("tbody");
  if (!body) return;
  const rows = Array.from(body.rows);
  const controls = section.querySelector(".controls");
  const words = controls.querySelector("input[type=search]");
  const review = controls.querySelector("input[type=checkbox]");
  const said = section.querySelector(".said");

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;

  function sort(heading) {
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sorted = rows.slice().sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
    body.append(...(down ? sorted.reverse() : sorted));
  }

  function filter() {
    const wanted = words.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden =
        (review.checked && row.dataset.review !== "yes") ||
        !row.textContent.toLowerCase().includes(wanted);
      if (!row.hidden) shown += 1;
    }
    said.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows shown`;
  }

  for (const heading of section.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(heading));
  }
  words.addEventListener("input", filter);
  review.addEventListener("change", filter);
  controls.hidden = false;
})();
