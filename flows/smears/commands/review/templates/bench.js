"use strict";
// Keys for what the page's forms and links do; without script these work by mouse and touch.
// Cells to come are fetched while one is read, and answers are sent while the next is shown: a page
// that loads between two keys would lose the keys typed meanwhile.
const AHEAD = 40, AT_ONCE = 3;
const press = { Enter: "next", z: "undo", ArrowLeft: "before", ArrowRight: "next", v: "view" };
const byId = (id) => document.getElementById(id);
let shown = performance.now(), sent = false;
let early = 0;  // keys that came before a cell was there, which are for none
let queue = [], fetching = 0, stuck = "";
const ahead = new Map(), unsent = [];

const bench = () => document.querySelector(".bench[data-queue]");

function tell() {
  const words = [];
  if (stuck) words.push(`${unsent.length} answer${unsent.length === 1 ? " is" : "s are"} not saved yet: ${stuck}. Press a key to send again.`);
  if (early) words.push(`${early} key${early === 1 ? "" : "s"} came before the cell was shown and ${early === 1 ? "was" : "were"} ignored.`);
  byId("told").textContent = words.join(" ");
}

async function fetched(id) {
  const answer = await fetch(`${bench().dataset.here}/${id}`);
  if (!answer.ok) throw new Error(`the next cell cannot be read (${answer.status})`);
  const main = document.adoptNode(new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main"));
  const picture = main.querySelector("#picture");
  if (picture) await picture.decode().catch(() => null);
  return main;
}

// Fetch the cells to come, a few at a time; data-ready says how many are there.
function fetchAhead() {
  const missing = queue.slice(0, AHEAD).find((id) => !ahead.has(id));
  document.body.dataset.ready = queue.filter((id) => ahead.get(id)?.main).length;
  if (!missing || fetching >= AT_ONCE) return;
  fetching += 1;
  const entry = {};
  ahead.set(missing, entry);
  entry.promise = fetched(missing).then((main) => { entry.main = main; }, () => { ahead.delete(missing); queue = queue.slice(0, queue.indexOf(missing)); })
    .finally(() => { fetching -= 1; fetchAhead(); });
  fetchAhead();
}

let sending = null;
function flush() {
  sending ||= (async () => {
    stuck = "";
    while (unsent.length && !stuck) {
      const { url, body } = unsent[0];
      const answer = await fetch(url, { method: "POST", headers: { Accept: "application/json" }, body: new URLSearchParams(body) }).catch(() => null);
      if (answer && answer.ok) unsent.shift();
      else stuck = answer ? (await answer.text()).trim() || `the server says ${answer.status}` : "the server does not answer";
    }
    sending = null;
    tell();
  })();
  return sending;
}

async function leave(go) {
  await flush();
  if (unsent.length) sent = false;
  else go();
}

// Show the next cell in the place of this one.
async function advance() {
  const before = bench().dataset, next = queue.shift();
  if (!next) { sent = true; leave(() => { location.href = byId("next").href; }); return; }
  sent = true;
  fetchAhead();
  const entry = ahead.get(next);
  if (entry && !entry.main) await entry.promise;
  if (!entry || !entry.main) { leave(() => { location.href = byId("next").href; }); return; }
  ahead.delete(next);
  const read = byId("read") && Number(byId("read").textContent) + 1;
  document.querySelector("main").replaceWith(entry.main);
  const now = bench().dataset;
  if (byId("read")) {
    byId("read").textContent = read;
    byId("read").previousElementSibling.value = read;
    document.title = `${read} of ${byId("read").previousElementSibling.max} read`;
  }
  byId("before").href = `${now.here}/${before.cell}`;
  byId("before").hidden = false;
  byId("undo").disabled = false;
  history.replaceState(null, "", `${now.here}/${now.cell}`);
  begin();
  fetchAhead();
}

function begin() {
  shown = performance.now();
  sent = false;
  tell();
  byId("say").addEventListener("submit", (event) => {
    const seconds = ((performance.now() - shown) / 1000).toFixed(1);
    event.preventDefault();
    if (sent) return;
    unsent.push({ url: location.href, body: { answer: event.submitter.value, seconds } });
    flush();
    advance();
  });
}

if (bench()) {
  byId("say").dataset.script = "on";
  queue = bench().dataset.queue.split(" ").filter(Boolean);
  begin();
  fetchAhead();
  addEventListener("beforeunload", (event) => { if (unsent.length) event.preventDefault(); });
  document.addEventListener("click", (event) => {
    const target = event.target.closest("a, #undo");
    if (!target || !unsent.length) return;
    event.preventDefault();
    leave(() => target.click());
  });
}
// The person came back to a page that the browser has kept.
addEventListener("pageshow", () => { sent = false; });
if (byId("sheet")) byId("sheet").addEventListener("submit", () => { byId("sheet").elements.seconds.value = ((performance.now() - shown) / 1000).toFixed(1); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const mark = document.querySelector(`[data-mark="${CSS.escape(event.key)}"]`);
  if (mark) { mark.click(); return; }
  if (event.key === "Enter" && byId("sheet")) { event.preventDefault(); byId("sheet").requestSubmit(); return; }
  const answer = document.querySelector(`#say [data-key="${CSS.escape(event.key)}"]`);
  if (stuck && answer) { flush(); return; }
  if (sent) { if (answer && bench()) { early += 1; tell(); } return; }
  const target = answer || byId(press[event.key]);
  const field = event.key === "f" && byId("field");
  if (target && !target.disabled && !target.hidden) {
    event.preventDefault();
    target.click();
    sent ||= target !== answer;
  } else if (field) field.open = !field.open;
});
