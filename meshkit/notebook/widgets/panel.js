// Shows the HTML that the kernel made, and sends what is chosen: {do, value}. All of the logic is in Python.

const TYPING = 250; // ms of quiet before a text is sent

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without HTTPS a browser has no clipboard for scripts, but still copies what is selected.
  const area = document.body.appendChild(Object.assign(document.createElement("textarea"), { value: text }));
  area.select();
  document.execCommand("copy");
  area.remove();
  return Promise.resolve();
}

// Arrow keys go from cell to cell of a matrix, of which only one can be reached by Tab.
function step(event) {
  const grid = event.target.closest("[role=grid]");
  const [down, right] = STEPS[event.key] ?? [];
  if (!grid || down === undefined) return;
  event.preventDefault();
  const rows = [...grid.rows].map((row) => [...row.querySelectorAll("[role=gridcell]")]).filter((row) => row.length);
  const cell = event.target.closest("[role=gridcell]");
  let y = rows.findIndex((row) => row.includes(cell));
  let x = rows[y].indexOf(cell);
  do {
    y += down;
    x += right;
  } while (rows[y]?.[x] && !rows[y][x].querySelector("button"));
  rows[y]?.[x]?.querySelector("button").focus();
}

function render({ model, el }) {
  const panel = el.appendChild(document.createElement("section"));
  panel.className = "mk-panel";
  panel.setAttribute("aria-label", model.get("label"));
  panel.setAttribute("data-lm-suppress-shortcuts", ""); // or `dd` on a button would delete the cell
  const body = panel.appendChild(document.createElement("div"));
  const status = panel.appendChild(document.createElement("p"));
  status.className = "mk-status";
  status.setAttribute("role", "status");

  const unfolded = new Map(); // what a person has opened stays open when the page is drawn again
  let typing;
  let reading;

  const tell = (control, value) => model.send({ do: control.dataset.do, value });

  function draw() {
    const active = body.contains(document.activeElement) ? document.activeElement : null;
    const { id, value, selectionStart } = active ?? {};
    body.innerHTML = model.get("html");
    clearInterval(reading);
    const { every } = body.querySelector("[data-every]")?.dataset ?? {};
    if (every) reading = setInterval(() => model.send({ do: "refresh", value: "" }), 1000 * every);
    for (const one of body.querySelectorAll("details[id]")) {
      if (unfolded.has(one.id)) one.open = unfolded.get(one.id);
    }
    const again = id && body.querySelector(`#${CSS.escape(id)}`);
    if (!again) return;
    again.focus({ preventScroll: true });
    if (again.type === "search") {
      again.value = value; // what was typed since the kernel heard of it
      again.setSelectionRange(selectionStart, selectionStart);
    }
  }

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.copy !== undefined) {
      copy(button.dataset.copy).then(() => (status.textContent = "copied"));
    } else if (button.dataset.fold !== undefined) {
      for (const one of body.querySelectorAll("details")) one.open = button.dataset.fold === "open";
    } else {
      tell(button, button.value);
    }
  });
  body.addEventListener("change", ({ target }) => {
    if (target.type !== "search") tell(target, target.type === "checkbox" ? String(target.checked) : target.value);
  });
  body.addEventListener("input", ({ target }) => {
    if (target.type !== "search") return;
    clearTimeout(typing);
    typing = setTimeout(() => tell(target, target.value), TYPING);
  });
  body.addEventListener("toggle", ({ target }) => target.id && unfolded.set(target.id, target.open), true);
  body.addEventListener("keydown", step);

  model.on("change:html", draw);
  model.on("change:status", () => (status.textContent = model.get("status")));
  status.textContent = model.get("status");
  draw();
  return () => clearInterval(reading); // nothing is read for a widget that nobody sees any more
}

export default { render };
