"use strict";
// Keys for what the page's forms and links do; without script these work by mouse and touch.
const shown = performance.now();
const say = document.getElementById("say");
let sent = false;  // a key that is pressed before the next cell is there is not for this one
say.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
  say.elements.seconds.value = ((performance.now() - shown) / 1000).toFixed(1);
});
const press = { z: "undo", ArrowLeft: "before", ArrowRight: "next", l: "like", a: "all" };
const toggle = { f: "field", h: "heat" };
// The browser shows a page that it has kept, and the person has come back to it.
addEventListener("pageshow", () => { sent = false; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || sent) return;
  const verdict = say.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  const target = verdict || document.getElementById(press[event.key]);
  const details = document.getElementById(toggle[event.key]);
  if (target && !target.disabled) { event.preventDefault(); target.click(); sent ||= target !== verdict; }
  else if (details) details.open = !details.open;
});
