"use strict";
(() => {
  const table = document.getElementById("claims");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const fields = Array.from(document.querySelectorAll(".filters [data-filter]"));
  const counted = document.getElementById("counted");

  function filter() {
    let left = 0;
    for (const row of rows) {
      const kept = fields.every((field) => {
        const wanted = field.value.trim().toLowerCase();
        if (!wanted) return true;
        if (field.dataset.filter === "search") return row.textContent.toLowerCase().includes(wanted);
        return row.dataset[field.dataset.filter].toLowerCase() === wanted;
      });
      row.hidden = !kept;
      left += kept;
    }
    counted.textContent = `${left} of ${rows.length} claims`;
  }

  function sort(header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = header.dataset.key;
    const numeric = header.dataset.numeric !== undefined;
    const value = (row) => (numeric ? Number(row.dataset[key]) : row.dataset[key]);
    const order = (a, b) => (numeric ? value(a) - value(b) : value(a).localeCompare(value(b)));
    rows.sort((a, b) => (descending ? order(b, a) : order(a, b)));
    body.append(...rows);
  }

  for (const field of fields) field.addEventListener("input", filter);
  for (const header of table.querySelectorAll("th[data-key]")) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  filter();
})();
