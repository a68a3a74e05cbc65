"use strict";
// Shows a picture with pan and zoom in a .viewer, and the contours of its cells above it.
function makeViewer(root) {
  const svgOf = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const find = (selector) => root.querySelector(selector);
  const chosen = find(".chosen"), scale = find(".scale"), loading = find(".loading");
  const svg = svgOf("svg"), layer = svgOf("g");
  svg.setAttribute("class", "contours");
  svg.append(layer);
  // OpenSeadragon adds a style of its own, which no page here allows, unless it finds one by name.
  if (!document.querySelector("style[data-openseadragon-mobile-css]")) {
    const none = document.createElementNS("urn:none", "style");
    none.setAttribute("data-openseadragon-mobile-css", "true");
    document.head.append(none);
  }
  let seadragon = null, picture = null, cells = [], wanted = 0, timer = 0;

  // picture: {source, width, height, microns, load(box) -> Promise of cells, choose(cell, panel)}
  function open(given) {
    close();
    picture = given;
    cells = [];
    seadragon = OpenSeadragon({
      element: find(".picture"), tileSources: given.source, drawer: "canvas",
      showNavigationControl: false, animationTime: 0.4, maxZoomPixelRatio: 8, visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false },
    });
    seadragon.canvas.append(svg);
    seadragon.addHandler("open", () => { if (given.at) look(given.at); refresh(); });
    seadragon.addHandler("update-viewport", place);
    seadragon.addHandler("animation-finish", refresh);
    seadragon.addHandler("resize", refresh);
    seadragon.addHandler("canvas-click", (event) => { if (event.quick) pick(event.position); });
    seadragon.addHandler("open-failed", () => { loading.textContent = "this picture could not be loaded"; });
    seadragon.addHandler("tile-load-failed", () => { loading.textContent = "a part of this picture could not be loaded"; });
    // Letters are the page's own keys here, and none turns a smear over.
    seadragon.addHandler("canvas-key", (event) => {
      if (/^[a-z]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true;
    });
    filter();
  }

  function close() {
    if (seadragon) seadragon.destroy();
    seadragon = picture = null;
    layer.replaceChildren();
  }

  const item = () => seadragon && seadragon.world.getItemAt(0);
  // From pixels of the picture at full resolution to pixels of the screen.
  function placed() {
    const at = item() && item().imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const far = at && item().imageToViewerElementCoordinates(new OpenSeadragon.Point(item().source.width, 0));
    return at && { x: at.x, y: at.y, by: (far.x - at.x) / picture.width };
  }

  function place() {
    const now = placed();
    if (!now) return;
    layer.setAttribute("transform", `translate(${now.x} ${now.y}) scale(${now.by})`);
    bar(now.by);
  }

  function bar(by) {
    if (!picture.microns) { scale.hidden = true; return; }
    const pixels = (microns) => (microns / picture.microns) * by;
    const lengths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
    const length = lengths.filter((each) => pixels(each) <= 160).pop() || lengths[0];
    scale.hidden = false;
    scale.firstElementChild.style.width = `${pixels(length)}px`;
    scale.firstElementChild.textContent = `${length >= 1000 ? length / 1000 : length} ${length >= 1000 ? "mm" : "µm"}`;
  }

  // What is seen, in pixels of the picture.
  function seen() {
    const now = placed();
    if (!now) return null;
    const { clientWidth: wide, clientHeight: high } = seadragon.canvas;
    return { x: -now.x / now.by, y: -now.y / now.by, width: wide / now.by, height: high / now.by };
  }

  function refresh() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const box = seen(), mine = ++wanted;
      if (!box) return;
      const found = await picture.load(box);
      if (mine !== wanted || !picture) return;
      draw(found.cells);
      loading.textContent = found.said || "";
      place();
    }, 60);
  }

  function draw(found) {
    const before = cells.find((each) => each.path && each.path.classList.contains("picked"));
    cells = found;
    const sorted = found.slice().sort((a, b) => a.abnormal - b.abnormal);
    layer.replaceChildren(...sorted.map((cell) => {
      cell.path = svgOf("path");
      dress(cell);
      let text = "";
      for (let at = 0; at < cell.points.length; at += 2) text += ` ${cell.points[at]} ${cell.points[at + 1]}`;
      cell.path.setAttribute("d", `M${text}z`);
      if (before && before.image_id === cell.image_id) cell.path.classList.add("picked");
      return cell.path;
    }));
  }

  function dress(cell) {
    cell.path.setAttribute("class", cell.kind.replaceAll(" ", "-") + (cell.abnormal ? " abnormal" : ""));
    cell.path.dataset.id = cell.image_id;
  }

  // Even and odd crossings of a line to the right; the smallest cell wins.
  function inside(points, x, y) {
    let odd = false;
    for (let a = 0, b = points.length - 2; a < points.length; b = a, a += 2) {
      const [x0, y0, x1, y1] = [points[a], points[a + 1], points[b], points[b + 1]];
      if ((y0 > y) !== (y1 > y) && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) odd = !odd;
    }
    return odd;
  }

  function extent(cell) {
    const xs = cell.points.filter((_, i) => i % 2 === 0), ys = cell.points.filter((_, i) => i % 2);
    const [x, y] = [Math.min(...xs), Math.min(...ys)];
    return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
  }

  function pick(position) {
    const now = placed();
    const x = (position.x - now.x) / now.by, y = (position.y - now.y) / now.by;
    const hit = cells.filter((each) => inside(each.points, x, y))
      .sort((a, b) => extent(a).width - extent(b).width)[0];
    if (hit) choose(hit);
  }

  function choose(cell) {
    for (const each of cells) each.path.classList.toggle("picked", each === cell);
    root.dataset.chosen = cell.image_id;
    picture.choose(cell, chosen);
  }

  // Move to a box of the picture, with its surroundings.
  function look(box) {
    const around = 6 * Math.max(box.width, box.height);
    const by = item().source.width / picture.width;
    seadragon.viewport.fitBounds(item().imageToViewportRectangle(
      (box.x - around) * by, (box.y - around) * by, (box.width + 2 * around) * by, (box.height + 2 * around) * by), true);
  }

  function next() {
    const parasites = cells.filter((each) => each.kind === "parasitized" || each.kind === "not read");
    if (!parasites.length) return;
    const at = parasites.findIndex((each) => each.image_id === root.dataset.chosen);
    const cell = parasites[(at + 1) % parasites.length];
    look(extent(cell));
    choose(cell);
  }

  function filter() {
    const values = [...root.querySelectorAll("[data-filter]")].map((each) => `${each.dataset.filter}(${each.value}%)`);
    const drawn = seadragon && seadragon.drawer.canvas;
    if (drawn) drawn.style.filter = values.join(" ");
  }

  const actions = {
    in: () => seadragon.viewport.zoomBy(1.5), out: () => seadragon.viewport.zoomBy(1 / 1.5),
    home: () => seadragon.viewport.goHome(), next, close: () => root.close(),
    reset: () => { for (const each of root.querySelectorAll("[data-filter]")) each.value = 100; filter(); },
  };
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (!button || !seadragon) return;
    actions[button.dataset.do]();
    if (seadragon) seadragon.viewport.applyConstraints();
  });
  root.addEventListener("input", (event) => {
    const { kind } = event.target.dataset;
    if (kind) root.classList.toggle(`hide-${kind}`, !event.target.checked);
    else filter();
  });
  root.addEventListener("close", close);
  root.addEventListener("keydown", (event) => {
    if (event.key === "n" && !event.ctrlKey && !event.metaKey) next();
  });
  return { open, refresh, choose, dress, get cells() { return cells; }, get seadragon() { return seadragon; }, seen };
}
