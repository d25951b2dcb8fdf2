"use strict";
shapefit.run(async () => {
  const { data } = shapefit;
  const result = () => data.result.map((mesh) => {
    const t = shapefit.paintSeen(shapefit.trace(mesh), mesh, data.unseen);
    t.meta = mesh.name;
    return t;
  });
  const ghosts = data.truth.map((mesh) => Object.assign(shapefit.trace(mesh), { meta: mesh.name, visible: false,
    hoverinfo: "skip", hovertemplate: null }));
  if (data.result.length) await shapefit.scene("result", [...result(), ...ghosts], "oblique");
  const ghost = document.getElementById("ghost");
  if (ghost) ghost.addEventListener("change", () => {
    const element = document.getElementById("result");
    Plotly.restyle(element, { visible: ghost.checked }, ghosts.map((_, n) => data.result.length + n));
  });

  const measured = data.result.filter((mesh) => mesh.distance);
  if (measured.length) {
    const paint = (kind) => measured.map((mesh, n) => {
      const t = shapefit.paintDistance(shapefit.trace(mesh), mesh, kind, data.scale, data.top[kind]);
      t.meta = mesh.name;
      return n ? t : shapefit.colourBar(t, "distance to the truth, mm");
    });
    const element = await shapefit.scene("error", paint("absolute"), "oblique");
    shapefit.choices("aligned", (kind) => {
      const traces = paint(kind);
      traces.forEach((t, n) => { t.visible = element.data[n].visible; });
      Plotly.react(element, traces, element.layout);
    });
  }

  const stages = [];
  data.history.forEach((point, n) => {
    const last = stages[stages.length - 1];
    const stage = last && last.name === String(point.stage) ? last : { name: String(point.stage), x: [], y: [] };
    if (stage !== last) stages.push(stage);
    stage.x.push(n); stage.y.push(point.loss);
  });
  if (stages.length) shapefit.lines("history", stages.map((stage, n) => ({
    type: "scatter", mode: stage.x.length > 1 ? "lines" : "markers", x: stage.x, y: stage.y, name: stage.name,
    line: { width: 1.6, color: n % 2 ? "#0072B2" : "#1c1c1e" }, marker: { size: 4, color: "#1c1c1e" },
    hovertemplate: `stage ${stage.name}<br>loss %{y:.5g}<extra></extra>`,
  })), {
    xaxis: { title: { text: "step, all stages in a row" } }, yaxis: { title: { text: "loss" } },
    annotations: stages.length <= 8 ? stages.map((stage) => ({ x: stage.x[0], y: 1, xref: "x", yref: "paper", showarrow: false,
      xanchor: "left", yanchor: "bottom", text: stage.name, font: { size: 11, color: "#8d8c88" } })) : [],
    shapes: stages.slice(1).map((stage) => ({ type: "line", x0: stage.x[0] - 0.5, x1: stage.x[0] - 0.5, yref: "paper", y0: 0,
      y1: 1, line: { color: "#e3e1dc", width: 1 } })),
    margin: { l: 64, r: 12, t: 22, b: 44 },
  });

  if (data.coefficients.length) shapefit.lines("coefficients", [{
    type: "bar", x: data.coefficients.map((_, n) => n + 1), y: data.coefficients, width: 0.7,
    marker: { color: data.coefficients.map((c) => (Math.abs(c) > 3 ? "#D55E00" : "#56B4E9")) },
    error_y: (data.coefficients_std || []).length ? { type: "data", array: data.coefficients_std, thickness: 1.2, width: 3,
      color: "#62625f" } : undefined,
    hovertemplate: "mode %{x}: %{y:.2f} std<extra></extra>",
  }], {
    xaxis: { title: { text: "mode" }, showgrid: false, tickformat: "d" },
    yaxis: { title: { text: "coefficient, std" }, range: [-Math.max(3.4, ...data.coefficients.map((c) => Math.abs(c) * 1.1)),
      Math.max(3.4, ...data.coefficients.map((c) => Math.abs(c) * 1.1))] },
    shapes: [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: -3, y1: 3, layer: "below", line: { width: 0 },
      fillcolor: "rgba(86,180,233,0.08)" }],
  });
});
