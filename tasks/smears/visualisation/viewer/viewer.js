"use strict";
// Shows a picture with pan and zoom in a .viewer, and the contours of its cells above it.
function makeViewer(root) {
  const svgOf = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const find = (selector) => root.querySelector(selector);
  const chosen = find(".chosen"), scale = find(".scale"), loading = find(".loading");
  const svg = svgOf("svg"), layer = svgOf("g");
  svg.setAttribute("class", "contours");
  const hint = [...chosen.children];
  const clip = svgOf("clipPath"), edge = svgOf("rect"), ruler = svgOf("line"), label = svgOf("text");
  clip.id = "picture-edge";
  clip.append(edge);
  layer.setAttribute("clip-path", "url(#picture-edge)");
  ruler.setAttribute("class", "ruler");
  svg.append(clip, layer, ruler, label);
  // OpenSeadragon adds a style of its own, which no page here allows, unless it finds one by name.
  if (!document.querySelector("style[data-openseadragon-mobile-css]")) {
    const none = document.createElementNS("urn:none", "style");
    none.setAttribute("data-openseadragon-mobile-css", "true");
    document.head.append(none);
  }
  let seadragon = null, picture = null, cells = [], wanted = 0, timer = 0, typical = 0;
  let reached = null;  // how far the keys have come in the order of cells
  let awaited = null;  // the cell to choose as soon as its contour is there
  let measuring = false, ends = [];  // two places, in pixels of the picture

  // picture: {source, width, height, microns, red_cell, load(box) -> Promise of cells,
  // choose(cell, panel), mark(cell, key) -> words on it, walk, at}: the places of cells in the order
  // of the keys, and of the first to show, {image_id, x, y, width, height}
  function open(given) {
    close();
    picture = given;
    cells = [];
    root.dataset.chosen = "";
    reached = null;
    chosen.replaceChildren(...hint);
    for (const side of ["width", "height"]) edge.setAttribute(side, given[side]);
    typical = given.walk.map((each) => each.width).sort((a, b) => a - b)[given.walk.length >> 1];
    seadragon = OpenSeadragon({
      element: find(".picture"), tileSources: given.source, drawer: "canvas",
      showNavigationControl: false, animationTime: 0.4, maxZoomPixelRatio: 8,
      visibilityRatio: 1, constrainDuringPan: true, minZoomImageRatio: 1,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false },
    });
    seadragon.canvas.append(svg);
    seadragon.addHandler("open", () => { if (given.at) go(given.at); else refresh(); });
    seadragon.addHandler("update-viewport", place);
    seadragon.addHandler("animation-finish", refresh);
    seadragon.addHandler("resize", () => { seadragon.viewport.applyConstraints(true); refresh(); });
    seadragon.addHandler("canvas-click", (event) => { if (event.quick) (measuring ? measure : pick)(event.position); });
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
    setMeasuring(false);
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
    const [a, b] = ends.map((end) => ({ x: now.x + end.x * now.by, y: now.y + end.y * now.by }));
    for (const [name, value] of Object.entries(a ? { x1: a.x, y1: a.y, x2: (b || a).x, y2: (b || a).y } : {})) ruler.setAttribute(name, value);
    if (b) { label.setAttribute("x", (a.x + b.x) / 2); label.setAttribute("y", Math.max(20, Math.min(a.y, b.y) - 10)); }
  }

  // Two clicks measure a distance; the next begins another.
  function measure(position) {
    const now = placed();
    ends = [...(ends.length < 2 ? ends : []), { x: (position.x - now.x) / now.by, y: (position.y - now.y) / now.by }];
    const pixels = ends.length < 2 ? 0 : Math.hypot(ends[0].x - ends[1].x, ends[0].y - ends[1].y);
    const { microns, red_cell } = picture;
    const size = red_cell ? `, ${(pixels / red_cell).toFixed(1)} red cells wide` : microns ? `, ${(pixels * microns).toFixed(1)} µm` : "";
    label.textContent = pixels ? `${Math.round(pixels)} pixels${size}` : "";
    ruler.style.display = "inline";
    place();
  }

  function setMeasuring(on) {
    measuring = on;
    ends = [];
    label.textContent = "";
    ruler.style.display = "none";
    root.classList.toggle("measuring", on);
    find("[data-do=measure]").setAttribute("aria-pressed", on);
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
      const there = cells.find((each) => each.image_id === awaited);
      if (there) choose(there);
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
    if (cell.answer) cell.path.dataset.answer = cell.answer; else delete cell.path.dataset.answer;
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
    awaited = null;
    picture.choose(cell, chosen);
  }

  // Show about six cells across around a box; nothing beyond the picture.
  function look(box) {
    const aspect = seadragon.viewport.getAspectRatio(), by = item().source.width / picture.width;
    const width = Math.min(6 * Math.max(typical, box.width / 3), picture.width, picture.height * aspect), height = width / aspect;
    const from = (start, side, seen, all) => by * Math.max(0, Math.min(start + side / 2 - seen / 2, all - seen));
    seadragon.viewport.fitBounds(item().imageToViewportRectangle(
      from(box.x, box.width, width, picture.width), from(box.y, box.height, height, picture.height), width * by, height * by), true);
  }

  // Until its contour is there no cell is chosen, so that no key is taken for another cell.
  function go(place) {
    root.dataset.chosen = awaited = place.image_id;
    chosen.replaceChildren();
    look(place);
    refresh();
  }

  function walk(step) {
    const { walk: all } = picture;
    reached = reached === null ? 0 : (reached + step + all.length) % all.length;
    if (all.length) go(all[reached]);
  }

  // Mark the chosen cell by the page's own means, and say so below it.
  function mark(key) {
    const cell = cells.find((each) => each.path.classList.contains("picked"));
    if (!cell || awaited || !picture.mark) return;
    const said = picture.mark(cell, key);
    dress(cell);
    cell.path.classList.add("picked");
    const line = chosen.querySelector(".marked") || chosen.appendChild(document.createElement("p"));
    Object.assign(line, { className: "marked", textContent: said });
  }

  function filter() {
    const values = [...root.querySelectorAll("[data-filter]")].map((each) => `${each.dataset.filter}(${each.value}%)`);
    const drawn = seadragon && seadragon.drawer.canvas;
    if (drawn) drawn.style.filter = values.join(" ");
  }

  const actions = {
    in: () => seadragon.viewport.zoomBy(1.5), out: () => seadragon.viewport.zoomBy(1 / 1.5),
    home: () => seadragon.viewport.goHome(), close: () => root.close(),
    next: () => walk(1), back: () => walk(-1), measure: () => setMeasuring(!measuring),
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
  const keys = { n: "next", b: "back", m: "measure" };
  document.addEventListener("keydown", (event) => {
    if (!seadragon || event.ctrlKey || event.metaKey || event.altKey) return;
    if (keys[event.key] && item()) actions[keys[event.key]]();
    if (event.key === "p" || event.key === "u") mark(event.key);
  });
  return { open, refresh, go, choose, dress, mark, get cells() { return cells; }, get seadragon() { return seadragon; }, seen };
}
