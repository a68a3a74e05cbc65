"use strict";
// A picture of the bench: tiles and contours come from the server, and a chosen cell takes an answer.
(() => {
  const root = document.getElementById("viewer"), { base, reader } = root.dataset;
  const picture = JSON.parse(root.dataset.picture);
  const viewer = makeViewer(root);
  const element = (name, given) => Object.assign(document.createElement(name), given);
  let chosen = null, shown = 0;

  async function load(box) {
    const query = new URLSearchParams(Object.entries(box));
    const answer = await fetch(`${base}/by/${reader}/cells/${picture.source}?${query}`);
    if (!answer.ok) return { cells: viewer.cells, said: "the cells cannot be read" };
    return answer.json();
  }

  function words(cell) {
    const told = cell.answer ? `You said ${cell.answer}. ` : "";
    return told + (cell.said ? `The machine says: ${cell.said}.` : "");
  }

  function choose(cell, panel) {
    chosen = cell;
    shown = performance.now();
    const form = document.getElementById("answers").content.cloneNode(true).firstElementChild;
    for (const button of form.elements) button.setAttribute("aria-pressed", button.value === cell.answer);
    form.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) say(button.value, panel);
    });
    panel.replaceChildren(element("img", { src: `${base}/picture/${cell.image_id}`, alt: "the cell" }), element("p", { textContent: words(cell) }), form);
  }

  async function say(answer, panel) {
    const cell = chosen, seconds = ((performance.now() - shown) / 1000).toFixed(1);
    const told = document.getElementById("told");
    const reply = await fetch(`${base}/by/${reader}/${cell.image_id}`, {
      method: "POST", headers: { Accept: "application/json" }, body: new URLSearchParams({ answer, seconds }),
    }).catch(() => null);
    if (!reply || !reply.ok) {
      const place = picture.walk.find((each) => each.image_id === cell.image_id);
      if (place && root.dataset.chosen !== cell.image_id) viewer.go(place);
      told.textContent = `${answer} was not saved: answer again`;
      return;
    }
    told.textContent = "";
    Object.assign(cell, (await reply.json()).contour);
    viewer.dress(cell);
    if (root.dataset.chosen !== cell.image_id) return; // another cell is chosen by now
    cell.path.classList.add("picked");
    choose(cell, panel);
  }

  viewer.open({
    width: picture.width, height: picture.height, microns: picture.microns, red_cell: picture.red_cell,
    walk: picture.walk, at: picture.at, load, choose,
    source: {
      width: picture.width, height: picture.height, tileSize: picture.tile, minLevel: picture.least, maxLevel: picture.most,
      getTileUrl: (level, x, y) => `${base}/tile/${picture.source}/${level}/${x}_${y}`,
    },
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const panel = root.querySelector(".chosen");
    const button = panel.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (button) button.click();
  });
})();
