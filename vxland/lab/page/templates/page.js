// Points bytes and fields at each other: under the pointer, and with the arrow keys in a table of fields.
"use strict";
function mark(packet, field) {
  for (const one of packet.querySelectorAll(".on")) one.classList.remove("on");
  if (field === undefined) return;
  for (const one of packet.querySelectorAll(`[data-field="${field}"]`)) one.classList.add("on");
}
document.addEventListener("pointerover", (event) => {
  const packet = event.target.closest(".packet");
  if (packet) mark(packet, event.target.closest("[data-field]")?.dataset.field);
});
for (const packet of document.querySelectorAll(".packet")) {
  packet.addEventListener("pointerleave", () => mark(packet));
}
for (const table of document.querySelectorAll(".fields")) {
  const packet = table.closest(".packet");
  const rows = [...table.querySelectorAll("tr[data-field]")];
  table.addEventListener("blur", () => mark(packet));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = rows.findIndex((row) => row.classList.contains("on"));
    const next = rows[Math.max(0, Math.min(rows.length - 1, at + step))];
    mark(packet, next.dataset.field);
    next.scrollIntoView({ block: "nearest" });
  });
}
