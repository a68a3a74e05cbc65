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
// A link to a patient opens his cells.
(() => {
  const show = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && (target.closest("details") || target.querySelector("details.fold"));
    if (!fold) return;
    fold.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", show);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) setTimeout(show);
  });
  show();
})();
// Marked parasites are saved as a sheet of answers for `slidewatch review import`.
(() => {
  const section = document.getElementById("called");
  const [parasite, other] = section ? section.dataset.classes.split(",") : [];
  if (!other) return;
  const element = (name, values) => Object.assign(document.createElement(name), values);
  for (const patient of section.querySelectorAll(".patient")) {
    const cells = [...patient.querySelectorAll(".cell")];
    if (!cells.length) continue;
    const marks = cells.map((cell) => {
      const mark = element("input", { type: "checkbox", checked: "marked" in cell.dataset }), label = element("label");
      label.append(mark, " a parasite");
      cell.append(label);
      return mark;
    });
    const save = element("button", { type: "button", textContent: "Save these answers" });
    save.addEventListener("click", () => {
      const lines = cells.map((cell, i) => `${cell.dataset.id},${section.dataset.batch},${marks[i].checked ? parasite : other}`);
      const link = element("a", { download: `answers-${patient.lastElementChild.id}.csv` });
      link.href = "data:text/csv," + encodeURIComponent(["image_id,batch,answer", ...lines, ""].join("\n"));
      link.click();
    });
    const line = element("p", {});
    line.append(save, ` Marked cells are parasites, the others are not. Read the file with: slidewatch review import FILE --store ${section.dataset.store}`);
    patient.lastElementChild.append(line);
  }
})();
// A field opens with pan and zoom; without script its contours lie over it.
(() => {
  const dialog = document.getElementById("viewer");
  if (!dialog || !window.makeViewer) return; // no field could be read
  const viewer = makeViewer(dialog);
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });

  function choose(cell, panel, image) {
    const { width, height } = cell.box;
    const by = image.naturalWidth / cell.full, canvas = document.createElement("canvas");
    Object.assign(canvas, { width: Math.max(1, width * by), height: Math.max(1, height * by) });
    canvas.getContext("2d").drawImage(image, cell.box.x * by, cell.box.y * by, width * by, height * by, 0, 0, canvas.width, canvas.height);
    panel.replaceChildren(canvas, element("p", cell.said));
    if (!keeper(cell.image_id)) return;
    for (const [key, text] of [["p", "parasitized"], ["u", "uninfected"]]) {
      const button = Object.assign(element("button", ` ${text}`), { type: "button", onclick: () => viewer.mark(key) });
      button.prepend(element("kbd", key));
      panel.append(button);
    }
  }

  // The mark of a cell among the likeliest parasites, which the page saves.
  const keeper = (id) => document.querySelector(`#called .cell[data-id="${CSS.escape(id)}"] input[type=checkbox]`);

  function mark(cell, key) {
    const kept = keeper(cell.image_id);
    if (!kept) return "Not marked: this page takes answers only on its likeliest parasites. slidewatch review serve takes them on every cell of a batch.";
    kept.checked = key === "p";
    cell.answer = kept.checked ? "Parasitized" : "Uninfected";
    return `Marked as ${kept.checked ? "a parasite" : "uninfected"}. To keep it, save the answers below the patient's cells.`;
  }

  for (const field of document.querySelectorAll(".field[data-width]")) {
    const button = field.querySelector(".enlarge"), image = field.querySelector("img");
    if (!button) continue;
    button.hidden = false;
    button.addEventListener("click", () => {
      const { width, height, microns, redCell } = field.dataset;
      const cells = [...field.querySelectorAll(".contours path")].map((path) => {
        const points = path.getAttribute("d").match(/-?\d+/g).map(Number);
        const [xs, ys] = [points.filter((_, i) => i % 2 === 0), points.filter((_, i) => i % 2)];
        const [x, y] = [Math.min(...xs), Math.min(...ys)], kept = keeper(path.dataset.id);
        return {
          priority: Number(path.dataset.priority), answer: kept && kept.checked ? "Parasitized" : null,
          image_id: path.dataset.id, kind: path.classList[0].replaceAll("-", " "), points,
          abnormal: path.classList.contains("abnormal"), said: path.dataset.said, full: Number(width),
          box: { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y },
        };
      });
      const walk = cells.slice().sort((a, b) => b.priority - a.priority).map(({ image_id, box }) => ({ image_id, ...box }));
      dialog.showModal();
      viewer.open({
        source: { type: "image", url: image.src }, width: Number(width), height: Number(height),
        microns: Number(microns) || null, red_cell: Number(redCell) || null, walk, mark: document.getElementById("called") && mark,
        load: async () => ({ cells }), choose: (cell, panel) => choose(cell, panel, image),
      });
    });
  }
})();
