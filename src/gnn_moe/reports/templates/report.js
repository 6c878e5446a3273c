// Tables that sort, by buttons made here: without this script a header is text. And a button to copy a command.
"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  function sort(table, header, direction) {
    const body = table.tBodies[0];
    const column = header.cellIndex;
    const asNumber = header.dataset.sorts === "number";
    const sign = direction === "descending" ? -1 : 1;
    const rows = table.originalRows.map((row) => ({ row, key: row.cells[column].dataset.key }));
    if (direction !== "none") {
      rows.sort((one, other) => {
        // Without a key: last, whichever way the others go.
        if (one.key === undefined || other.key === undefined) {
          return (one.key === undefined) - (other.key === undefined);
        }
        return sign * (asNumber ? one.key - other.key : collator.compare(one.key, other.key));
      });
    }
    body.append(...rows.map(({ row }) => row));
    for (const each of table.tHead.rows[0].cells) {
      each.setAttribute("aria-sort", each === header ? direction : "none");
    }
  }

  for (const table of document.querySelectorAll("table")) {
    table.originalRows = [...table.tBodies[0].rows];
    if (table.originalRows.length < 2) continue;
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, header, NEXT[header.getAttribute("aria-sort")]));
    }
  }

  if (navigator.clipboard) {
    for (const block of document.querySelectorAll(".code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-live", "polite");
      button.addEventListener("click", async () => {
        const said = await navigator.clipboard.writeText(block.querySelector("code").textContent).then(
          () => "Copied",
          (error) => `Not copied: ${error.name}`,
        );
        button.textContent = said;
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
      block.append(button);
    }
  }
})();
