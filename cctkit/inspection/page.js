"use strict";
// Sorts the rows of a table by the column whose heading is pressed: ascending, then descending. Empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const isNumber = heading.classList.contains("number");
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.value === undefined) return isNumber || cell.textContent === "" ? null : cell.textContent;
      return Number(cell.dataset.value);
    };
    heading.firstElementChild.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const order = (a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
        if (typeof a.key === "number" && typeof b.key === "number") return sign * (a.key - b.key);
        return sign * String(a.key).localeCompare(String(b.key), undefined, { numeric: true });
      };
      const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row) })).sort(order);
      table.tBodies[0].append(...rows.map((each) => each.row));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
  });
}
