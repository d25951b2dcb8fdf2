"use strict";
// Mouse, touch, wheel and keys on a viewer's canvas: turn, move, come closer.
shapefit.handle = (canvas, view, onTurn) => {
  const { camera } = view, down = new Map();
  const DEGREES = 0.4; // per pixel
  const turn = (dx, dy) => {
    camera.azimuth -= DEGREES * dx;
    camera.elevation = Math.max(-90, Math.min(90, camera.elevation + DEGREES * dy));
    onTurn();
  };
  const move = (dx, dy) => { camera.pan[0] += dx / view.pixels(); camera.pan[1] -= dy / view.pixels(); };

  // The point under the pointer stays under it.
  const zoom = (factor, x, y) => {
    const before = view.pixels();
    camera.zoom = Math.max(0.4, Math.min(12, camera.zoom * factor));
    const after = view.pixels(), dx = x - canvas.clientWidth / 2, dy = y - canvas.clientHeight / 2;
    camera.pan[0] += dx / after - dx / before;
    camera.pan[1] -= dy / after - dy / before;
  };
  const middle = (points) => [0, 1].map((d) => points.reduce((sum, p) => sum + p[d], 0) / points.length);
  const apart = (points) => Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]);

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, [event.offsetX, event.offsetY]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!down.has(event.pointerId)) return;
    const before = Array.from(down.values());
    down.set(event.pointerId, [event.offsetX, event.offsetY]);
    const after = Array.from(down.values()), [x, y] = middle(after), [oldX, oldY] = middle(before);
    if (down.size === 1 && !event.shiftKey && event.buttons === 1) turn(x - oldX, y - oldY);
    else move(x - oldX, y - oldY);
    if (down.size === 2) zoom(apart(after) / Math.max(apart(before), 1), x, y);
    view.draw();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => down.delete(event.pointerId));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => view.look());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1; // Firefox counts lines
    zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), event.offsetX, event.offsetY);
    view.draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const centre = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    const keys = { ArrowLeft: () => turn(-25, 0), ArrowRight: () => turn(25, 0), ArrowUp: () => turn(0, -25),
      ArrowDown: () => turn(0, 25), "+": () => zoom(1.2, ...centre), "=": () => zoom(1.2, ...centre),
      "-": () => zoom(1 / 1.2, ...centre), 0: () => view.look() };
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
    view.draw();
  });
};

// What lies over the picture: a bar of known length, the body's directions, the landmarks' names.
shapefit.overlay = (frame, view) => {
  const bar = frame.querySelector(".scalebar"), compass = frame.querySelector(".compass");
  const NS = "http://www.w3.org/2000/svg", ends = [["R", 0, 1], ["L", 0, -1], ["A", 1, 1], ["P", 1, -1], ["S", 2, 1], ["I", 2, -1]];
  const rods = ends.map(([name, axis, sign]) => {
    const line = document.createElementNS(NS, "line"), text = document.createElementNS(NS, "text");
    text.textContent = name;
    compass.append(line, text);
    return { axis, sign, line, text };
  });
  const labels = frame.querySelector(".labels");
  let marks = [], spans = [], widths = [];

  view.watch(() => {
    const per = view.pixels();
    const length = [1, 2, 5, 10, 20, 50, 100, 200, 500].reduce((best, mm) => (mm * per < 130 ? mm : best), 1);
    bar.style.width = `${(100 * length * per) / frame.clientWidth}%`; // of the frame, so that paper is right too
    bar.lastElementChild.textContent = `${length} mm`;
    const [right, up, eye] = view.axes();
    for (const { axis, sign, line, text } of rods) {
      const x = sign * right[axis] * 24, y = -sign * up[axis] * 24, near = sign * eye[axis];
      line.setAttribute("x2", x);
      line.setAttribute("y2", y);
      text.setAttribute("x", x * 1.36);
      text.setAttribute("y", y * 1.36);
      const faint = Math.hypot(x, y) < 7 ? 0 : near < -0.3 ? 0.35 : 1; // end on, a rod says nothing
      for (const element of [line, text]) element.style.opacity = faint;
    }
    const places = view.project(marks.map((mark) => mark.at));
    marks.forEach((mark, n) => {
      const towards = mark.out.reduce((sum, v, d) => sum + v * eye[d], 0) / (Math.hypot(...mark.out) || 1);
      spans[n].style.opacity = towards > -0.15 ? 1 : 0; // those on the far side keep quiet
      const [x, y] = places[n], width = frame.clientWidth, room = widths[n] + 14;
      const leftwards = x < width / 2 - 4 ? x > room : x + room > width;
      spans[n].style.left = `${(100 * x) / width}%`;
      spans[n].style.top = `${(100 * y) / frame.clientHeight}%`;
      spans[n].classList.toggle("leftwards", leftwards);
    });
  });

  return (found) => { // [{name, at, out}], or none
    if (found.length !== marks.length) {
      spans = found.map(({ name }) => {
        const span = document.createElement("span");
        span.textContent = name;
        return span;
      });
      labels.replaceChildren(...spans);
      widths = spans.map((span) => span.offsetWidth);
    }
    marks = found;
  };
};
