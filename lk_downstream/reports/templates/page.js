"use strict";
// Tables: a click on a heading sorts by it, numbers from the largest, another click the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const number = head.classList.contains("number");
    const first = number ? "descending" : "ascending";
    const other = number ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((cell) => cell.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const key = (row) => number ? Number(row.cells[column].dataset.value ?? NaN) : row.cells[column].textContent;
    const compare = (a, b) => number
      ? (isNaN(a) - isNaN(b)) || sign * (a - b) || 0
      : sign * a.localeCompare(b, undefined, { numeric: true });
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  }));
}

// Images: which are shown, in which order, and how much of the truth.
function cut(card, value) {
  const stack = card.querySelector(".stack");
  const slider = card.querySelector("input.cut");
  if (!slider) return;
  slider.value = value;
  stack.style.setProperty("--cut", `${value}%`);
}
for (const box of document.querySelectorAll("[data-images]")) {
  const cards = [...box.querySelectorAll(".card")];
  const total = box.querySelector("[data-count]").textContent.split(" of ")[1];
  const controls = {};
  for (const control of box.querySelectorAll("[data-control]")) controls[control.dataset.control] = control;
  const number = (name) => Number(controls[name].value);
  function update(event) {
    const name = event && event.target.dataset.control;
    for (const control of Object.values(controls)) {
      if (control.nextElementSibling) control.nextElementSibling.value = control.value;
    }
    let shown = 0;
    for (const card of cards) {
      const known = card.dataset.classes.split(" ");
      const wanted = controls.class.value === "" || known.includes(controls.class.value);
      card.hidden = !wanted || (number("most") < 100 && !(Number(card.dataset.metric ?? NaN) <= number("most")));
      shown += !card.hidden;
      if (name === "cut") cut(card, number("cut"));
    }
    for (const mark of box.querySelectorAll("g[data-class]")) {
      const low = "score" in mark.dataset && 100 * Number(mark.dataset.score) < number("score");
      mark.style.display = low || (controls.class.value && mark.dataset.class !== controls.class.value) ? "none" : "";
    }
    if (controls.opacity) box.style.setProperty("--opacity", number("opacity") / 100);
    if (name === "order") {
      const sign = number("order");
      cards.sort((a, b) => sign * (a.dataset.order - b.dataset.order));
      box.querySelector(".cards").append(...cards);
    }
    box.querySelector("[data-count]").textContent = `${shown} images of ${total}`;
  }
  box.addEventListener("input", (event) => {
    if (event.target.matches("input.cut")) cut(event.target.closest(".card"), event.target.value);
    else update(event);
  });
  for (const card of cards) {
    const stack = card.querySelector(".stack");
    const follow = (event) => {
      if (!event.buttons) return;
      const edge = stack.getBoundingClientRect();
      cut(card, Math.round(Math.min(100, Math.max(0, 100 * (event.clientX - edge.left) / edge.width))));
    };
    stack.addEventListener("pointerdown", follow);
    stack.addEventListener("pointermove", follow);
    stack.addEventListener("dragstart", (event) => event.preventDefault());
  }
  update();
}

// On paper there is no slider: truth and prediction stand beside each other, and everything is unfolded.
let undo = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    undo.push(() => { details.open = false; });
  }
  for (const card of document.querySelectorAll(".card:not([hidden])")) {
    const stack = card.querySelector(".stack");
    if (!card.querySelector("input.cut")) continue;
    const before = stack.style.getPropertyValue("--cut");
    const truth = stack.cloneNode(true);
    truth.style.setProperty("--cut", "100%");
    stack.style.setProperty("--cut", "0%");
    stack.before(truth);
    undo.push(() => { truth.remove(); stack.style.setProperty("--cut", before || "50%"); });
  }
});
addEventListener("afterprint", () => { undo.forEach((step) => step()); undo = []; });
