// Sorting and filtering of the episodes' table.
"use strict";

const table = document.getElementById("table");
const body = table.tBodies[0];
const rows = [...body.rows];

function sortBy(column, descending) {
  const value = (row) => row.cells[column].dataset.value;
  const numeric = rows.every((row) => value(row) === "" || Number.isFinite(Number(value(row))) || value(row) === "inf");
  const number = (text) => (text === "inf" ? Infinity : Number(text));
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last either way
    const order = numeric ? number(x) - number(y) : x.localeCompare(y);
    return descending ? -order : order;
  };
  body.append(...rows.sort(compare));
}

for (const button of table.tHead.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(header.cellIndex, descending);
  });
}

function filter() {
  const text = document.getElementById("find").value.toLowerCase();
  const state = document.getElementById("state").value;
  let shown = 0;
  for (const row of rows) {
    row.hidden = !(row.dataset.text.toLowerCase().includes(text) && (!state || row.dataset.state === state));
    shown += !row.hidden;
  }
  document.getElementById("count").value = `${shown} shown`;
}

const form = document.getElementById("filters");
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter(); // a page that is gone back to keeps what was typed
