"use strict";
(() => {
  const said = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  function sort(table, column) {
    const headers = Array.from(table.tHead.rows[0].cells);
    const rows = Array.from(table.tBodies[0].rows);
    const descending = headers[column].getAttribute("aria-sort") === "ascending";
    for (const header of headers) header.setAttribute("aria-sort", "none");
    headers[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    const number = (row) => (/\d/.test(said(row, column)) ? parseFloat(said(row, column)) : Infinity);
    const numeric = rows.map(number).every((each) => !Number.isNaN(each)) && rows.some((row) => number(row) < Infinity);
    const text = (a, b) => said(a, column).localeCompare(said(b, column), "en", { numeric: true });
    const order = (a, b) => (numeric ? number(a) - number(b) || 0 : text(a, b));
    rows.sort((a, b) => (descending ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll(".scroll > table")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
      const button = document.createElement("button");
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, column));
      header.append(button);
      header.setAttribute("aria-sort", "none");
    });
  }

  const claims = document.getElementById("claims");
  if (!claims) return;
  const rows = Array.from(claims.tBodies[0].rows);
  const fields = Array.from(document.querySelectorAll(".filters [data-filter]"));

  function filter() {
    for (const row of rows) {
      row.hidden = !fields.every((field) => {
        const wanted = field.value.trim().toLowerCase();
        if (!wanted) return true;
        if (field.dataset.filter === "search") return row.textContent.toLowerCase().includes(wanted);
        return row.dataset[field.dataset.filter].toLowerCase() === wanted;
      });
    }
    const left = rows.filter((row) => !row.hidden).length;
    document.getElementById("counted").textContent = `${left} of ${rows.length} claims`;
  }

  for (const field of fields) field.addEventListener("input", filter);
  filter();
})();
