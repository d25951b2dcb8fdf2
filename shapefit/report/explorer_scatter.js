"use strict";
// The training cases in two modes of choice. A click on a dot chooses its case; a drag elsewhere, any shape.
shapefit.scatter = (svg, cases, share, { onCase, onPlace }) => {
  const NS = "http://www.w3.org/2000/svg", WIDTH = 340, HEIGHT = 270, LEFT = 34, BOTTOM = 30, TOP = 8, RIGHT = 8;
  const make = (tag, attributes, parent, text) => {
    const element = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const largest = Math.max(0, ...cases.flatMap((one) => one.coefficients.map(Math.abs)));
  const top = Math.max(3.2, 1.08 * largest), chosen = { across: 0, up: Math.min(1, share.length - 1) };
  const per = Math.min((WIDTH - LEFT - RIGHT) / (2 * top), (HEIGHT - TOP - BOTTOM) / (2 * top)); // equal on both axes
  const wide = (WIDTH - LEFT - RIGHT) / 2 / per, high = (HEIGHT - TOP - BOTTOM) / 2 / per;
  const x = (value) => LEFT + (value + wide) * per, y = (value) => TOP + (high - value) * per;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const grid = make("g", { class: "grid" }, svg), dots = make("g", { class: "dots" }, svg);
  for (let tick = -Math.floor(wide); tick <= wide; tick++) {
    make("text", { x: x(tick), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, grid, String(tick).replace("-", "\u2212"));
  }
  for (let tick = -Math.floor(high); tick <= high; tick++) {
    make("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, grid, String(tick).replace("-", "\u2212"));
  }
  make("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }, grid);
  make("path", { d: `M${x(-wide)} ${y(0)}H${x(wide)}M${x(0)} ${y(-high)}V${y(high)}` }, grid);
  for (const std of [1, 2, 3]) make("circle", { cx: x(0), cy: y(0), r: std * per }, grid);

  // Mirror images lie on their originals in modes that are symmetric: rings below, dots above.
  const order = cases.map((one, n) => n).sort((a, b) => cases[b].name.endsWith("~") - cases[a].name.endsWith("~"));
  const points = order.map((n) => {
    const one = cases[n], mirrored = one.name.endsWith("~");
    const group = make("g", { class: mirrored ? "dot mirrored" : "dot", "data-case": one.name }, dots);
    make("title", {}, group, mirrored ? `${one.name.slice(0, -1)}, mirrored` : one.name);
    make("circle", { class: "reach", r: mirrored ? 9 : 5 }, group);
    make("circle", { class: "ink", r: mirrored ? 5.5 : 3 }, group);
    group.addEventListener("click", () => onCase(n));
    return group;
  });
  let last = null;
  const label = make("text", { class: "label", "text-anchor": "middle" }, svg);
  const here = make("g", { class: "here" }, svg);
  make("circle", { r: 7.5 }, here);
  make("path", { d: "M-12 0H-7.5M12 0H7.5M0 -12V-7.5M0 12V7.5" }, here);

  function arrange() {
    points.forEach((group, place) => {
      const c = cases[order[place]].coefficients;
      group.setAttribute("transform", `translate(${x(c[chosen.across])} ${y(c[chosen.up])})`);
    });
    if (last) mark(...last);
  }

  function mark(coefficients, name) {
    last = [coefficients, name];
    const at = [coefficients[chosen.across], coefficients[chosen.up]];
    const px = x(Math.max(-wide, Math.min(wide, at[0]))), py = y(Math.max(-high, Math.min(high, at[1])));
    here.setAttribute("transform", `translate(${px} ${py})`);
    label.textContent = name;
    label.setAttribute("x", Math.max(LEFT + 22, Math.min(WIDTH - RIGHT - 22, px)));
    label.setAttribute("y", py < TOP + 30 ? py + 26 : py - 16);
  }

  let dragging = false;
  const place = (event) => {
    const matrix = svg.getScreenCTM();
    if (!matrix) return;
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    const limit = (value, end) => Math.max(-end, Math.min(end, value));
    onPlace(chosen.across, limit((at.x - LEFT) / per - wide, Math.min(3, wide)), chosen.up,
      limit(high - (at.y - TOP) / per, Math.min(3, high)));
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".dot")) return;
    dragging = true;
    svg.setPointerCapture(event.pointerId);
    place(event);
  });
  svg.addEventListener("pointermove", (event) => { if (dragging) place(event); });
  for (const kind of ["pointerup", "pointercancel"]) svg.addEventListener(kind, () => { dragging = false; });

  for (const axis of ["across", "up"]) {
    const select = document.getElementById(axis);
    share.forEach((part, k) => select.add(new Option(`mode ${k + 1} (${(100 * part).toFixed(1)} %)`, k, false, k === chosen[axis])));
    select.addEventListener("change", () => { chosen[axis] = Number(select.value); arrange(); });
  }
  arrange();
  return mark;
};
