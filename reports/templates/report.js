"use strict";
// Filter box, deep links to rows, and folds that open for the printer. The page says everything without it.
const cards = [...document.querySelectorAll(".card")];
const groups = [...document.querySelectorAll(".group")];
const box = document.getElementById("filter");
const count = document.getElementById("count");
const wasOpen = new Map(groups.map((group) => [group, group.open]));
const texts = new Map();

function textOf(card) {
  if (!texts.has(card)) {
    const group = card.closest(".group").querySelector("summary").textContent;
    texts.set(card, (card.id + " " + group + " " + card.dataset.find + " " + card.textContent).toLowerCase());
  }
  return texts.get(card);
}

function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const fits = words.every((word) => textOf(card).includes(word));
    card.hidden = !fits;
    shown += fits;
  }
  for (const group of groups) {
    const any = group.querySelector(".card:not([hidden])") !== null;
    group.hidden = words.length > 0 && !any;
    group.open = words.length > 0 ? any : wasOpen.get(group);
  }
  count.textContent = words.length ? `${shown} of ${cards.length} rows` : "";
}

function open(hash) {
  const name = decodeURIComponent(hash.slice(1));
  if (!name) return;
  let target = document.getElementById(name);
  if (!target && /^(row-)?[0-9a-f]{6,}$/.test(name)) {
    const start = name.startsWith("row-") ? name : "row-" + name;
    target = cards.find((card) => card.id.startsWith(start));
  }
  if (!target) return;
  if (target.hidden) {
    box.value = "";
    filter();
  }
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  for (const card of cards) card.classList.toggle("linked", card === target);
  target.scrollIntoView({ block: "start" });
  if (target.classList.contains("card")) target.focus({ preventScroll: true });
}

if (box) {
  let waiting;
  box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); });
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") { box.value = ""; filter(); } });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/input|textarea/i.test(event.target.tagName)) { event.preventDefault(); box.focus(); }
  });
}
addEventListener("hashchange", () => open(location.hash));
addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll(".group, .numbers")) fold.open = true; });
open(location.hash);
