"use strict";
shapefit.run(async () => {
  const { data } = shapefit;
  const bones = data.structures.map((mesh) => ({
    mean: shapefit.columns(shapefit.floats(mesh.vertices)),
    modes: mesh.modes.map((mode) => shapefit.columns(shapefit.floats(mode))),
  }));
  const element = await shapefit.scene("shape", data.structures.map((mesh) =>
    Object.assign(shapefit.trace(mesh), { meta: mesh.name })), "oblique", 1.25);

  const sliders = Array.from({ length: data.modes }, (_, k) => document.getElementById(`mode${k}`));
  const shape = (coefficients) => {
    const all = { x: [], y: [], z: [] };
    for (const bone of bones) {
      ["x", "y", "z"].forEach((axis, d) => {
        const out = Float32Array.from(bone.mean[d]);
        coefficients.forEach((c, k) => {
          if (c === 0) return;
          const mode = bone.modes[k][d];
          for (let n = 0; n < out.length; n++) out[n] += c * mode[n];
        });
        all[axis].push(out);
      });
    }
    return all;
  };

  let waiting = false;
  const update = () => {
    sliders.forEach((s, k) => { document.getElementById(`value${k}`).textContent = Number(s.value).toFixed(1); });
    if (waiting) return;
    waiting = true; // at most one new shape per frame, whatever the mouse does
    requestAnimationFrame(() => {
      waiting = false;
      Plotly.restyle(element, shape(sliders.map((s) => Number(s.value))), data.structures.map((_, n) => n));
    });
  };
  sliders.forEach((s) => s.addEventListener("input", update));
  document.getElementById("reset").addEventListener("click", () => { sliders.forEach((s) => { s.value = 0; }); update(); });
  document.getElementById("random").addEventListener("click", () => {
    sliders.forEach((s) => { // Box and Muller
      const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
      s.value = Math.max(-3, Math.min(3, radius * Math.cos(2 * Math.PI * Math.random())));
    });
    update();
  });

  const colours = { vertex: "#56B4E9", surface: "#1c1c1e" };
  for (const name of ["compactness", "generalisation", "specificity"]) {
    const curves = Object.entries(data.curves).filter(([key]) => key.startsWith(name));
    if (!curves.length) continue;
    shapefit.lines(name, curves.map(([key, points]) => ({
      type: "scatter", mode: "lines+markers", x: points.map((p) => p[0]), y: points.map((p) => p[1]), name: key,
      line: { width: 1.6, color: name === "generalisation" ? colours[key.split(" ")[1]] : "#1c1c1e" }, marker: { size: 4 },
      hovertemplate: `${key}: %{y:.3f} at %{x} modes<extra></extra>`,
    })), { xaxis: { title: { text: "modes" }, rangemode: "tozero" },
      yaxis: { title: { text: name === "compactness" ? "share of variance" : "mm" }, rangemode: "tozero" } });
  }
});
