"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], first = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const state = head.getAttribute("aria-sort");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (state === "descending") return body.append(...first);
      const sign = state === "ascending" ? -1 : 1;
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[column], value = cell.dataset.value;
        return value === undefined ? cell.textContent : Number(value);
      };
      const numbers = first.some(row => row.cells[column].dataset.value !== undefined);
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!numbers) return sign * x.localeCompare(y, "en", { numeric: true });
        // what has no number stays last
        return (typeof x === "string") - (typeof y === "string") || sign * (x - y) || 0;
      };
      body.append(...[...first].sort(order));
    });
  });
}
const shut = [];
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    shut.push(fold);
  }
});
addEventListener("afterprint", () => shut.splice(0).forEach(fold => { fold.open = false; }));
