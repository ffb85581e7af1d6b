"use strict";
for (const box of document.querySelectorAll("input[type=search]")) {
  const rows = [...document.getElementById(box.dataset.rows).children];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const count = document.getElementById(box.dataset.count);
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/);
    rows.forEach((row, at) => { row.hidden = !words.every((word) => texts[at].includes(word)); });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  box.addEventListener("input", search);
  box.closest("search").hidden = false;
  search();
}
