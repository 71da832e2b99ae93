// Search and filters over what the page shows anyway. Without this script all is there, unfolded.
"use strict";
const all = (selector) => [...document.querySelectorAll(selector)];
const folds = all("details[data-fold]");
const entries = all("main tbody tr, main .entry");
const text = new Map(entries.map((entry) => [entry, entry.textContent.toLowerCase()]));
const search = document.getElementById("search");
const boxes = all("#verdicts input");

function unfold(open) {
  for (const fold of folds) fold.open = open || fold.dataset.fold === "open";
}

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  let found = 0;
  for (const entry of entries) {
    const hit = words.every((word) => text.get(entry).includes(word));
    entry.classList.toggle("miss", !hit || off.has(entry.dataset.verdict));
    found += hit;
  }
  for (const fold of folds) {
    const inside = entries.filter((entry) => fold.contains(entry));
    const hit = inside.some((entry) => !entry.classList.contains("miss"));
    fold.classList.toggle("miss", words.length > 0 && !hit);
    fold.open = words.length > 0 ? hit : fold.dataset.fold === "open";
  }
  document.getElementById("hits").textContent = words.length ? `${found} rows and changes found` : "";
}

function unfoldTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
}

for (const tool of all("[data-tool]")) tool.hidden = false;
search.addEventListener("input", show);
for (const box of boxes) box.addEventListener("change", show);
addEventListener("hashchange", unfoldTarget);
addEventListener("beforeprint", () => unfold(true));
addEventListener("afterprint", show);
unfold(false);
if (location.hash) unfoldTarget();
