"use strict";
shapefit.run(() => {
  const { data } = shapefit, packed = data.model, count = packed.modes.length;
  const shape = shapefit.shapeModel(packed);
  const find = (id) => document.getElementById(id);
  const frame = document.querySelector(".viewer"), canvas = find("shape");
  const background = getComputedStyle(frame).getPropertyValue("--backdrop").trim();
  const view = shapefit.viewer(canvas, { mean: shape.mean, faces: shape.faces, structures: packed.structures, background });
  const label = view ? shapefit.overlay(frame, view) : () => {};
  if (view) shapefit.handle(canvas, view, () => document.querySelectorAll('[data-choice="look"] button')
    .forEach((button) => button.setAttribute("aria-pressed", false)));
  else frame.classList.add("blind");

  const sliders = packed.modes.map((_, k) => find(`mode${k}`));
  const told = []; // what the sliders show
  const outputs = packed.modes.map((_, k) => find(`value${k}`));
  const at = { positions: Float64Array.from(shape.mean), normals: new Float32Array(shape.mean.length),
    offset: new Float32Array(shape.count), colours: new Float32Array(shape.count) };
  const now = { coefficients: new Array(count).fill(0), name: "Mean shape", short: "", colour: "structure", top: 1, hidden: new Set() };
  const signed = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");

  // Colours: the end of the scale is a round number; it grows while one moves, and shrinks when one has let go.
  const ROUND = [[1, 5], [1.5, 3], [2, 4], [2.5, 5], [3, 3], [4, 4], [5, 5], [6, 3], [8, 4], [10, 5]]; // and in how many steps
  function ceiling(value) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
    const [top, steps] = ROUND.find(([end]) => end * power >= value * (1 - 1e-9));
    return [top * power, steps];
  }

  function paint(settled) {
    const kind = now.colour, bar = frame.querySelector(".colourbar");
    bar.hidden = kind === "structure";
    find("spread-of").hidden = kind !== "spread";
    if (kind === "structure") return view?.values(null);
    const of = find("spread");
    if (kind === "spread") at.colours = shape.spread(of.value);
    else shape.distance(at.positions, kind === "signed", at.colours);
    let most = 0;
    for (const value of at.colours) most = Math.max(most, Math.abs(value));
    const [top, steps] = ceiling(Math.max(most, kind === "spread" ? 1e-3 : 1, settled ? 0 : now.top));
    now.top = top;
    const ramp = packed.scales[kind === "signed" ? "signed" : "distance"], low = kind === "signed" ? -top : 0;
    const title = { spread: `standard deviation, ${of.selectedOptions[0].text}`, distance: "distance to the mean",
      signed: "inwards (\u2212) or outwards (+) of the mean" }[kind];
    bar.querySelector(".title").textContent = `${title}, mm; at most ${signed(most, 2)}`;
    if (bar.dataset.ends !== `${low} ${top}`) {
      bar.dataset.ends = `${low} ${top}`;
      const stops = low ? [low, low / 2, 0, top / 2, top] : Array.from({ length: steps + 1 }, (_, n) => (top * n) / steps);
      bar.querySelector(".ramp").style.background = `linear-gradient(to right, ${ramp.join(",")})`;
      bar.querySelector(".ticks").replaceChildren(...stops.map((value) => {
        const tick = document.createElement("span");
        tick.textContent = signed(value, 3).replace(/\.?0+$/, "") || "0";
        return tick;
      }));
    }
    return view?.values(at.colours, [low, top], ramp);
  }

  function marks() {
    const named = find("names")?.checked, shown = find("marks")?.checked, points = shown ? shape.carried(at.positions) : [];
    view?.balls(points);
    const out = shown ? shape.carried(at.normals) : [];
    if (find("names")) find("names").disabled = !shown;
    label(shown && named ? points.map((point, l) => ({ name: packed.landmarks.names[l], at: point, out: out[l] })) : []);
  }

  function tell() {
    let sum = 0, most = 0;
    for (const value of shape.distance(at.positions, false, at.offset)) { sum += value; if (value > most) most = value; }
    const far = Math.hypot(...now.coefficients), usual = Math.sqrt(Math.max(count - 0.5, 0)); // of a chi distribution
    find("shape-name").textContent = now.name;
    find("shape-facts").textContent = most < 5e-4 ? "" : `${(sum / shape.count).toFixed(1)} mm from the mean on average, `
      + `${most.toFixed(1)} mm at most \u00b7 Mahalanobis distance ${far.toFixed(1)} (random shapes: `
      + `${Math.max(usual - 1.39, 0).toFixed(1)} to ${(usual + 1.39).toFixed(1)})`;
  }

  const scatter = shapefit.scatter(find("scatter"), packed.cases, packed.share, {
    onCase: (n) => showCase(n),
    onPlace: (across, a, up, b) => {
      const next = [...now.coefficients];
      next[across] = a;
      next[up] = b;
      stop();
      set(next, "A shape by hand", "", false);
    },
  });

  function update(settled) {
    shape.bend(now.coefficients, at.positions);
    shape.normals(at.positions, at.normals);
    view?.surface(Float32Array.from(at.positions), at.normals);
    if (now.colour !== "spread" || settled) paint(settled);
    marks();
    tell();
    sliders.forEach((slider, k) => {
      if (told[k] === now.coefficients[k]) return;
      told[k] = now.coefficients[k];
      if (Number(slider.value) !== told[k]) slider.value = told[k];
      outputs[k].textContent = signed(told[k], 2);
    });
    scatter(now.coefficients, title(now.short));
  }

  // Coefficients in std; those left out are zero. Everything that shows the shape follows at once.
  function set(coefficients, name = "A shape by hand", short = "", settled = true) {
    now.coefficients = sliders.map((_, k) => coefficients[k] || 0);
    Object.assign(now, { name, short });
    find("case").value = short && packed.cases.some((one) => one.name === short) ? short : "";
    document.querySelectorAll("#scatter .dot").forEach((dot) => dot.classList.toggle("chosen", dot.dataset.case === find("case").value));
    update(settled);
  }

  const title = (name) => (name.endsWith("~") ? `${name.slice(0, -1)}, mirrored` : name);
  function showCase(n) {
    stop();
    set(packed.cases[n].coefficients, `Training case ${title(packed.cases[n].name)}`, packed.cases[n].name);
  }

  const cases = find("case");
  cases.add(new Option(packed.cases.length ? "a training case \u2026" : "no training cases", ""));
  for (const one of packed.cases) cases.add(new Option(title(one.name), one.name));
  cases.disabled = !packed.cases.length;
  cases.addEventListener("change", () => {
    if (cases.value) showCase(packed.cases.findIndex((one) => one.name === cases.value));
  });
  const mean = () => { stop(); set([], "Mean shape"); };
  find("mean").addEventListener("click", mean);
  find("random").addEventListener("click", () => {
    const draw = () => { // Box and Muller; beyond the sliders' ends, again
      const value = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
      return Math.abs(value) <= packed.range ? value : draw();
    };
    stop();
    set(sliders.map(draw), "Random shape");
  });

  let due = false;
  sliders.forEach((slider, k) => {
    slider.addEventListener("input", () => {
      if (playing.mode === k) stop();
      now.coefficients[k] = Number(slider.value);
      if (due) return;
      due = true; // at most one new shape per frame, whatever the mouse does
      requestAnimationFrame(() => { due = false; set(now.coefficients, "A shape by hand", "", false); });
    });
    slider.addEventListener("change", () => paint(true));
    slider.addEventListener("dblclick", () => { set(now.coefficients.map((c, j) => (j === k ? 0 : c))); });
  });

  const playing = { mode: null, phase: 0, since: 0 };
  const SECONDS = 5; // there and back
  function stop() {
    if (playing.mode === null) return;
    document.querySelector(`[data-play="${playing.mode}"]`).setAttribute("aria-pressed", false);
    playing.mode = null;
  }
  function step(time) {
    if (playing.mode === null) return;
    const phase = playing.phase + (2 * Math.PI * (time - playing.since)) / 1000 / SECONDS;
    const next = [...now.coefficients];
    next[playing.mode] = packed.range * Math.sin(phase);
    set(next, `Mode ${playing.mode + 1}`, "", false);
    requestAnimationFrame(step);
  }
  document.querySelectorAll("[data-play]").forEach((button) => button.addEventListener("click", () => {
    const mode = Number(button.dataset.play), same = playing.mode === mode;
    stop();
    if (same) return paint(true);
    button.setAttribute("aria-pressed", true);
    const start = Math.max(-1, Math.min(1, now.coefficients[mode] / packed.range));
    Object.assign(playing, { mode, phase: Math.asin(start), since: performance.now() });
    return requestAnimationFrame(step);
  }));

  const shown = () => packed.structures.filter((_, n) => !now.hidden.has(n));
  const file = () => shapefit.surfaceFile(at.positions, shape.faces, shown().map((one) => one.span),
    [now.name, shown().map((one) => one.name).join(" "), `coefficients ${now.coefficients.map((c) => c.toFixed(4)).join(" ")}`]);
  find("save").addEventListener("click", () => shapefit.save(file(), `${(now.short || now.name).replace(/\W+/g, "_")}.ply`));

  const colour = (kind) => { now.colour = kind; paint(true); };
  shapefit.choices("colour", colour);
  find("spread").addEventListener("change", () => paint(true));
  shapefit.choices("look", (name) => view?.look(name));
  for (const id of ["marks", "names"]) find(id)?.addEventListener("change", marks);
  packed.structures.forEach(({ name }, n) => {
    const box = document.querySelector(`[data-structure="${CSS.escape(name)}"]`);
    box.addEventListener("change", () => {
      if (box.checked) now.hidden.delete(n); else now.hidden.add(n);
      view?.show(n, box.checked);
    });
  });
  window.addEventListener("beforeprint", () => {
    frame.style.setProperty("--aspect", frame.clientWidth / frame.clientHeight); // the picture keeps its shape on paper
    view?.paint();
  });

  set([], "Mean shape");
  // For scripts and consoles: coefficients in std, vertices in mm as they are drawn, structure by structure.
  window.shapefit = shapefit;
  shapefit.explorer = {
    set,
    coefficients: () => [...now.coefficients],
    vertices: (name) => {
      const { span } = packed.structures.find((one) => one.name === name);
      return Array.from(at.positions.subarray(3 * span[0], 3 * (span[0] + span[1])));
    },
    landmarks: () => shape.carried(at.positions),
    colours: () => ({ kind: now.colour, top: now.top, values: Array.from(at.colours) }),
    shown: () => shown().map((one) => one.name),
    file,
    view,
  };
});
