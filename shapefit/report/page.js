"use strict";
// Shared by all report pages: decoding, 3D scenes, overlays, tables. No network, no framework.
const shapefit = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FONT = getComputedStyle(document.body).fontFamily;
  const QUIET = { displaylogo: false, displayModeBar: false, responsive: true };
  const EYES = { // RAS: x to the right side of the body, y to its front, z up
    front: { x: 0, y: 1.3, z: 0 }, back: { x: 0, y: -1.3, z: 0 }, left: { x: -1.3, y: 0, z: 0 },
    right: { x: 1.3, y: 0, z: 0 }, above: { x: 0, y: 0.001, z: 1.3 }, oblique: { x: 0.5, y: 1.15, z: 0.4 },
  };

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out.buffer;
  }
  const floats = (text) => new Float32Array(bytes(text));
  const integers = (text) => new Uint32Array(bytes(text));
  const octets = (text) => new Uint8Array(bytes(text));

  // (N, 3) in one array -> three arrays
  function columns(flat) {
    const n = flat.length / 3, out = [0, 1, 2].map(() => new flat.constructor(n));
    for (let i = 0; i < n; i++) for (let k = 0; k < 3; k++) out[k][i] = flat[3 * i + k];
    return out;
  }

  function cameraFrom(name) {
    const up = name === "above" ? { x: 0, y: 1, z: 0 } : { x: 0, y: 0, z: 1 };
    return { eye: EYES[name], up, projection: { type: "orthographic" } };
  }

  function trace(mesh) {
    const [x, y, z] = columns(floats(mesh.vertices)), [i, j, k] = columns(integers(mesh.faces));
    return {
      type: "mesh3d", x, y, z, i, j, k, name: mesh.label, showscale: false, flatshading: false,
      color: mesh.colour, opacity: mesh.opacity || 1,
      lighting: { ambient: 0.42, diffuse: 0.62, specular: 0.06, roughness: 0.85, fresnel: 0.02 },
      lightposition: { x: -4e4, y: 7e4, z: -1e5 }, // on the screen: right, up, away; so from the viewer's upper left
      hovertemplate: `${mesh.label}<br>%{x:.1f}, %{y:.1f}, %{z:.1f} mm<extra></extra>`,
    };
  }

  // Fixed axes around all traces, `room` times as wide: nothing jumps when bones change or disappear.
  function frame(traces, room) {
    const axes = ["x", "y", "z"].map((axis) => {
      let low = Infinity, high = -Infinity;
      for (const t of traces) for (const v of t[axis]) { if (v < low) low = v; if (v > high) high = v; }
      const middle = (low + high) / 2, half = Math.max((high - low) / 2, 1e-3) * room;
      return [middle - half, middle + half];
    });
    const size = axes.map(([low, high]) => high - low), largest = Math.max(...size);
    return { axes, ratio: size.map((s) => (1.75 * s) / largest) };
  }

  function sceneLayout(eye, traces, room) {
    const { axes, ratio } = frame(traces, room || 1.02);
    const hidden = (n) => ({ visible: false, showspikes: false, range: axes[n], autorange: false });
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
      font: { family: FONT, size: 12, color: "#62625f" },
      scene: {
        xaxis: hidden(0), yaxis: hidden(1), zaxis: hidden(2), dragmode: "orbit", aspectmode: "manual",
        aspectratio: { x: ratio[0], y: ratio[1], z: ratio[2] }, camera: cameraFrom(eye || "oblique"),
      },
    };
  }

  // Grey where no view looks, the structure's colour elsewhere.
  function paintSeen(t, mesh, unseen) {
    if (!mesh.seen) return t;
    t.intensity = Array.from(octets(mesh.seen));
    return Object.assign(t, { colorscale: [[0, unseen], [1, mesh.colour]], cmin: 0, cmax: 1 });
  }

  function paintDistance(t, mesh, kind, scale, top) {
    t.intensity = floats(mesh.distance[kind]);
    return Object.assign(t, {
      colorscale: scale.map((c, n) => [n / (scale.length - 1), c]), cmin: 0, cmax: top,
      hovertemplate: `${mesh.label}<br>%{intensity:.2f} mm<extra></extra>`,
    });
  }

  function colourBar(t, title) {
    return Object.assign(t, { showscale: true, colorbar: {
      title: { text: title, side: "bottom" }, orientation: "h", thickness: 8, len: 0.5, outlinewidth: 0, x: 0.5, y: 0.01,
      yanchor: "bottom" } });
  }

  const scenes = [];
  function scene(id, traces, eye, room) {
    const element = document.getElementById(id);
    if (!element) return null;
    scenes.push(element);
    return Plotly.newPlot(element, traces, sceneLayout(eye, traces, room), QUIET).then(() => {
      keepPrintable(element);
      let busy = false;
      element.on("plotly_relayout", (change) => { // one turns, all turn
        const camera = change["scene.camera"];
        if (!camera || busy) return;
        for (const other of scenes) if (other !== element && other.dataset.together === element.dataset.together) {
          busy = true;
          Plotly.relayout(other, { "scene.camera": camera }).then(() => { busy = false; });
        }
      });
      return element;
    });
  }

  // Paper shows no WebGL: keep a picture of what is on the screen, renewed when it has come to rest.
  function keepPrintable(element) {
    let timer = null;
    const renew = () => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        const size = { format: "png", width: element.clientWidth, height: element.clientHeight };
        const url = await Plotly.toImage(element, size);
        let image = element.querySelector("img.printed");
        if (!image) {
          image = document.createElement("img");
          image.className = "printed";
          image.alt = "the scene as last seen on the screen";
          element.appendChild(image);
        }
        image.src = url;
      }, 900);
    };
    element.on("plotly_afterplot", renew);
    element.on("plotly_relayout", renew);
    renew();
  }

  function look(name) {
    for (const element of scenes) Plotly.relayout(element, { "scene.camera": cameraFrom(name) });
  }

  function toggle(label, visible) {
    for (const element of scenes) {
      const hit = element.data.map((t, n) => (t.meta === label ? n : -1)).filter((n) => n >= 0);
      if (hit.length) Plotly.restyle(element, { visible }, hit);
    }
  }

  // Buttons of which one is pressed: <div class="choice" data-choice="name"><button value="...">
  function choices(name, act) {
    document.querySelectorAll(`[data-choice="${name}"]`).forEach((group) => {
      group.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        group.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button));
        act(button.value);
      });
    });
  }

  function lines(id, traces, layout) {
    const element = document.getElementById(id);
    if (!element) return null;
    const axis = { gridcolor: "#eceae5", zeroline: false, linecolor: "#8d8c88", ticks: "outside", tickcolor: "#8d8c88",
      ticklen: 4, automargin: true };
    const merged = Object.assign({
      margin: { l: 56, r: 12, t: 12, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: FONT, size: 12, color: "#62625f" }, hovermode: "closest", showlegend: false,
    }, layout);
    for (const name of ["xaxis", "yaxis"]) merged[name] = Object.assign({}, axis, layout[name]);
    return Plotly.newPlot(element, traces, merged, QUIET);
  }

  function sortable(table) {
    table.querySelectorAll("thead th").forEach((head) => {
      const column = head.cellIndex;
      head.tabIndex = 0;
      const sort = () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        table.querySelectorAll("thead th").forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        table.querySelectorAll("tbody").forEach((body) => {
          const value = (row) => {
            const cell = row.cells[column];
            if (!cell) return null; // a failed row has one long cell
            const number = parseFloat(cell.dataset.value ?? cell.textContent);
            return column > 1 && !Number.isNaN(number) ? number : column > 1 ? null : cell.textContent.trim();
          };
          const rows = Array.from(body.rows);
          rows.sort((a, b) => {
            const p = value(a), q = value(b);
            if (p === null || q === null) return (p === null ? 0 : 1) - (q === null ? 0 : 1); // failures first
            const order = typeof p === "number" ? p - q : p.localeCompare(q, "en", { numeric: true });
            return up ? order : -order;
          });
          rows.forEach((row) => body.appendChild(row));
        });
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }

  function overlays() {
    const fade = document.getElementById("fade");
    if (fade) {
      const apply = () => document.querySelectorAll(".stack img.over").forEach((i) => { i.style.opacity = fade.value; });
      fade.addEventListener("input", apply);
      apply();
    }
    document.querySelectorAll("[data-layer]").forEach((box) => {
      const apply = () => document.querySelectorAll(`.stack .${box.dataset.layer}`)
        .forEach((layer) => { layer.style.display = box.checked ? "" : "none"; });
      box.addEventListener("change", apply);
      apply();
    });
    document.querySelectorAll("[data-structure]").forEach((box) => {
      const apply = () => {
        document.querySelectorAll(`.stack [data-of="${CSS.escape(box.dataset.structure)}"]`)
          .forEach((path) => { path.style.display = box.checked ? "" : "none"; });
        toggle(box.dataset.structure, box.checked);
      };
      box.addEventListener("change", apply);
    });
    document.querySelectorAll("table[data-sortable]").forEach(sortable);
    choices("look", look);
  }

  // A page marks itself as ready, or says what went wrong, for whoever looks at it by machine.
  function run(page) {
    overlays();
    Promise.resolve().then(page).then(
      () => { document.documentElement.dataset.state = "ready"; },
      (error) => { document.documentElement.dataset.state = "failed"; console.error(error); });
  }

  return { data, floats, integers, octets, columns, trace, paintSeen, paintDistance, colourBar, scene, scenes, look,
    choices, lines, run };
})();
