"use strict";
shapefit.run(async () => {
  const { data } = shapefit;

  function draw(kind) {
    for (const key of ["assd", "hd95"]) {
      const traces = data.structures.map(([name, label, colour]) => {
        const points = data.points[kind][key][name] || [];
        return {
          type: "box", name: name === "all" ? "all together" : label, y: points.map((p) => p[1]), text: points.map((p) => p[0]), boxpoints: "all", jitter: 0.5,
          pointpos: 0, fillcolor: "rgba(0,0,0,0.03)", line: { color: "#8d8c88", width: 1 }, hoveron: "points",
          marker: { color: colour, size: 7, opacity: 0.9, line: { color: "#fff", width: 0.5 } },
          hovertemplate: "%{text}: %{y:.2f} mm<extra></extra>",
        };
      });
      shapefit.lines(key, traces, { yaxis: { rangemode: "tozero", title: { text: `${key.toUpperCase()}, mm` } },
        xaxis: { showgrid: false, ticks: "" } });
    }
  }

  function choose(kind) {
    document.querySelectorAll("[data-kind]").forEach((block) => {
      block.style.display = block.dataset.kind === kind ? "" : "none";
    });
    document.querySelectorAll('[data-choice="kind"] button').forEach((b) => b.setAttribute("aria-pressed", b.value === kind));
    draw(kind);
  }
  shapefit.choices("kind", choose);
  choose("absolute");

  for (const [n, scene] of data.scenes.entries()) {
    const traces = scene.meshes.filter((mesh) => mesh.distance).map((mesh, k) => {
      const t = shapefit.paintDistance(shapefit.trace(mesh), mesh, "absolute", data.scale, data.top);
      t.meta = mesh.name;
      return k ? t : shapefit.colourBar(t, "distance, mm");
    });
    await shapefit.scene(`scene${n}`, traces, "oblique");
  }
});
