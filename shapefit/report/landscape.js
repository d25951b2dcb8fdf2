"use strict";
shapefit.run(async () => {
  const { data } = shapefit;
  const INK = "#1c1c1e", ACCENT = "#0072B2", WAY = "#D55E00";
  const [low, high] = data.range, room = 0.06 * (high - low || 1);
  const signed = (value, digits) => (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
  for (const line of data.lines) {
    const ends = [line.x[0], line.x[line.x.length - 1]];
    const inside = (x) => Math.min(Math.max(x, ends[0]), ends[1]);
    const began = inside(line.start);
    await shapefit.lines(`line-${line.axis}`, [
      { type: "scatter", mode: "lines", x: line.x, y: line.y, line: { width: 1.8, color: INK, shape: "spline", smoothing: 0.4 },
        hovertemplate: `%{x:.1f} ${line.unit}<br>loss %{y:.4f}<extra></extra>` },
      { type: "scatter", mode: "markers", x: line.way.map(inside), y: line.way.map(() => 0.035), yaxis: "y2",
        marker: { size: 4, color: WAY, opacity: 0.55 }, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x: [began], y: [0.035], yaxis: "y2",
        marker: { size: 9, color: "rgba(255,255,255,0)", line: { width: 1.8, color: WAY } }, cliponaxis: false,
        hovertemplate: `start at ${signed(line.start, 1)} ${line.unit}<extra></extra>` },
    ], {
      margin: { l: 52, r: 10, t: 8, b: 42 },
      xaxis: { title: { text: line.unit === "°" ? "degrees from the answer" : "mm from the answer", standoff: 6 },
        range: [ends[0] * 1.02, ends[1] * 1.02], tick0: 0, dtick: ends[1] / 3 },
      yaxis: { title: { text: "loss", standoff: 6 }, range: [low - 2.2 * room, high + room] },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      shapes: [
        { type: "rect", x0: line.basin[0], x1: line.basin[1], yref: "paper", y0: 0, y1: 1, layer: "below",
          fillcolor: "rgba(86,180,233,0.13)", line: { width: 0 } },
        { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: ACCENT, width: 1.2, dash: "dot" } },
      ],
    });
  }
  const scale = data.scale.map((colour, n) => [n / (data.scale.length - 1), colour]);
  for (const plane of data.planes) {
    const half = (values) => (values[values.length - 1] - values[0]) / 2 / (values.length - 1);
    const span = (values) => [values[0] - half(values), values[values.length - 1] + half(values)];
    const way = [plane.start, ...plane.way];
    await shapefit.lines(`plane-${plane.axes[0]}-${plane.axes[1]}`, [
      { type: "heatmap", x: plane.x, y: plane.y, z: plane.z, zmin: low, zmax: high, colorscale: scale, showscale: false,
        zsmooth: "best", hovertemplate: `%{x:.1f} ${plane.units[0]}, %{y:.1f} ${plane.units[1]}<br>loss %{z:.4f}<extra></extra>` },
      { type: "contour", x: plane.x, y: plane.y, z: plane.z, ncontours: 12, showscale: false, hoverinfo: "skip",
        contours: { coloring: "none" }, line: { width: 0.6, color: "rgba(28,28,30,0.35)" } },
      { type: "scatter", mode: "lines", x: way.map((p) => p[0]), y: way.map((p) => p[1]), hoverinfo: "skip",
        line: { width: 3.4, color: "rgba(255,255,255,0.85)" } },
      { type: "scatter", mode: "lines+markers", x: way.map((p) => p[0]), y: way.map((p) => p[1]), hoverinfo: "skip",
        line: { width: 1.5, color: ACCENT }, marker: { size: 4, color: ACCENT } },
      { type: "scatter", mode: "markers", x: [plane.start[0]], y: [plane.start[1]],
        marker: { size: 11, color: "rgba(255,255,255,0.9)", line: { width: 2, color: ACCENT } }, hovertemplate: "start<extra></extra>" },
      { type: "scatter", mode: "markers", x: [0], y: [0], marker: { size: 13, symbol: "cross-thin", line: { width: 2.2, color: INK } },
        hovertemplate: `answer, loss ${data.loss.toFixed(4)}<extra></extra>` },
    ], {
      margin: { l: 54, r: 8, t: 6, b: 46 },
      xaxis: { title: { text: plane.titles[0], standoff: 6 }, range: span(plane.x), constrain: "domain", showgrid: false },
      // image rows run downwards, and so does the axis of what is seen in the image
      yaxis: { title: { text: plane.titles[1], standoff: 4 }, range: plane.axes[1] === "ty" ? span(plane.y).reverse() : span(plane.y),
        showgrid: false },
    });
  }
});
