"use strict";
// The page is whole without this: tables sort, units are filtered, a cell of the map says in words what it shows.
(() => {
  const value = (cell, isNumber) => {
    const text = (cell.dataset.v ?? cell.textContent).trim();
    if (!isNumber) return text === "" || text === "–" ? null : text;
    const number = parseFloat(text.replace(/,(?=\d{3})/g, ""));
    return Number.isNaN(number) ? null : number;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const sort = (table, th, index) => {
    const isNumber = th.classList.contains("num");
    const first = isNumber ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = th.getAttribute("aria-sort") === first ? second : first;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", order);
    const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[index], isNumber), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return order === "ascending" ? compare(a, b) : compare(b, a);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((th, index) => {
      if (!th.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      button.addEventListener("click", () => sort(table, th, index));
    });
  }

  const box = document.querySelector("#filter");
  const said = document.querySelector("#filtered");
  if (box) {
    box.closest("search").hidden = false;
    const items = [...document.querySelectorAll("[data-unit]")].map((item) => [item, item.dataset.unit.toLowerCase()]);
    const names = new Set(items.map(([, name]) => name));
    const filter = () => {
      const asked = box.value.trim().toLowerCase();
      for (const [item, name] of items) item.hidden = asked !== "" && !name.includes(asked);
      const left = [...names].filter((name) => name.includes(asked)).length;
      said.textContent = asked === "" ? "" : said.dataset.words.replace("{n}", left).replace("{m}", names.size);
    };
    box.addEventListener("input", filter);
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { box.value = ""; filter(); }
    });
    filter();
  }

  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();

  const map = document.querySelector("table.map");
  const readout = document.querySelector("#readout");
  if (map) {
    let lit = null;
    const show = (cell) => {
      lit?.classList.remove("lit");
      lit = cell;
      if (!cell) return;
      cell.classList.add("lit");
      readout.textContent = `${cell.closest("tr").dataset.unit} · ${cell.textContent}`;
    };
    map.addEventListener("pointerover", (event) => { const cell = event.target.closest("path"); if (cell) show(cell); });
    map.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const row = event.target.closest("tr");
      if (!step || !row) return;
      event.preventDefault();
      const cells = [...row.querySelectorAll("path")];
      const at = cells.indexOf(lit);
      show(cells[at < 0 ? (step > 0 ? 0 : cells.length - 1) : Math.min(Math.max(at + step, 0), cells.length - 1)]);
    });
  }
})();
