"use strict";
// Read-outs under the pointer, and the attached runs as downloads. Everything else stands without a script.

// The plot's own children, so that a search does not find the drawing that is hidden.
const drawings = document.querySelectorAll("svg.lines");

function nearest(points, x) {
  let best = points[0];
  for (const point of points) {
    if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  }
  return best;
}

function readOut(svg) {
  const plot = svg.closest(".plot");
  const lines = [...svg.querySelectorAll(".line")].map((line) => ({
    line,
    name: line.dataset.name,
    points: JSON.parse(line.dataset.points),
    stroke: line.closest(".group").classList[2],
  }));
  const hair = document.createElementNS("http://www.w3.org/2000/svg", "line");
  hair.setAttribute("class", "hair");
  hair.setAttribute("y1", svg.dataset.top);
  hair.setAttribute("y2", svg.dataset.bottom);
  const box = document.createElement("div");
  box.className = "read-out";
  box.hidden = true;
  plot.append(box);

  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const unit = svg.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * unit;
    const visible = lines.filter(({ line }) => line.getClientRects().length > 0);
    if (visible.length === 0) return;
    const found = visible.map((line) => ({ ...line, point: nearest(line.points, x) }));
    const at = found.reduce((best, { point }) => (Math.abs(point[0] - x) < Math.abs(best - x) ? point[0] : best), found[0].point[0]);
    // A line that has nothing near the hair is left out.
    const near = found.filter(({ point }) => Math.abs(point[0] - at) < 12).sort((a, b) => a.point[1] - b.point[1]);
    hair.setAttribute("x1", at);
    hair.setAttribute("x2", at);
    if (!hair.isConnected) svg.append(hair);
    box.replaceChildren(...near.map(({ name, point, stroke }) => {
      const row = document.createElement("div");
      const swatch = document.createElement("span");
      swatch.className = "swatch " + stroke;
      row.append(swatch, name + ": " + point[2]);
      return row;
    }));
    box.hidden = false;
    const place = at / unit;
    const isLeft = place > frame.width / 2;
    box.style.top = (event.clientY - frame.top + 14) + "px";
    box.style.left = isLeft ? "auto" : place + 12 + "px";
    box.style.right = isLeft ? frame.width - place + 12 + "px" : "auto";
  });
  svg.addEventListener("pointerleave", () => {
    hair.remove();
    box.hidden = true;
  });
}

drawings.forEach(readOut);

document.querySelectorAll("script[type='application/json']").forEach((attached) => {
  const button = document.querySelector("button[data-of='" + attached.id + "']");
  button.hidden = false;
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([attached.textContent], { type: "application/json" }));
    link.download = button.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
});
