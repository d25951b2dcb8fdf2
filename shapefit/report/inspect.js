"use strict";
shapefit.run(async () => {
  const { data } = shapefit;
  const wall = document.getElementById("wall");
  const tiles = Array.from(wall.children);
  const byRank = Object.fromEntries(tiles.map((tile) => [tile.dataset.rank, tile]));

  // ---- which are shown, in which order
  const wanted = new Set();
  function show() {
    const text = document.getElementById("search").value.trim().toLowerCase();
    let count = 0;
    for (const tile of tiles) {
      const kinds = tile.dataset.kinds.split(" ").filter(Boolean);
      const match = !wanted.size || kinds.some((kind) => wanted.has(kind))
        || (wanted.has("flagged") && kinds.length > 0) || (wanted.has("clean") && !kinds.length);
      tile.hidden = !(match && tile.dataset.name.toLowerCase().includes(text));
      count += !tile.hidden;
    }
    document.getElementById("none").hidden = count > 0;
    wall.dataset.shown = count;
  }
  const filters = Array.from(document.querySelectorAll(".filter"));
  for (const button of filters) button.addEventListener("click", () => {
    const kind = button.dataset.filter;
    if (!kind) wanted.clear();
    else if (!wanted.delete(kind)) wanted.add(kind);
    for (const b of filters) b.setAttribute("aria-pressed", b.dataset.filter ? wanted.has(b.dataset.filter) : !wanted.size);
    show();
  });
  document.getElementById("search").addEventListener("input", show);

  const orders = {
    rank: (a, b) => a.dataset.rank - b.dataset.rank,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
    volume: (a, b) => a.dataset.volume - b.dataset.volume,
  };
  shapefit.choices("order", (key) => wall.append(...tiles.sort(orders[key])));
  shapefit.choices("view", (view) => { wall.dataset.view = view; });
  document.getElementById("zoom").addEventListener("input", (event) => {
    document.getElementById("cases").style.setProperty("--zoom", event.target.value);
  });

  // ---- a case in large
  const closer = document.getElementById("closer");
  const element = (name, text, css) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (css) made.className = css;
    return made;
  };
  let current = null;
  function open(rank) {
    const tile = byRank[rank], found = data.cases[rank];
    current = rank;
    closer.replaceChildren();
    const head = element("header"), steps = element("span", "", "steps");
    head.append(element("h2", found.name), steps);
    for (const [text, act] of [["\u2190", () => step(-1)], ["\u2192", () => step(1)], ["close", () => closer.close()]]) {
      const button = element("button", text, "plain");
      button.type = "button";
      button.addEventListener("click", act);
      steps.append(button);
    }
    closer.append(head, element("div", found.path, "path"));
    if (found.error) closer.append(element("p", found.error, "alert"));
    const list = element("ul");
    for (const [kind, reason] of found.flags) {
      const item = element("li"), chip = element("span", data.kinds[kind], "chip");
      chip.dataset.kind = kind;
      item.append(chip, ` ${reason}`);
      list.append(item);
    }
    if (!found.flags.length) list.append(element("li", "No flag."));
    closer.append(list);
    // both pictures beside each other, at one scale, as large as the window lets them
    const pictures = element("div", "", "pictures"), images = Array.from(tile.querySelectorAll("img"));
    const sizes = ["--w", "--h"].map((key) => images.map((img) => parseFloat(img.style.getPropertyValue(key))));
    const room = Math.min(1120, 0.94 * innerWidth) - 100;
    const beside = room / (sizes[0][0] + sizes[0][1]), high = (0.5 * innerHeight) / Math.max(...sizes[1]);
    const scale = innerWidth < 600 ? room / Math.max(...sizes[0]) : Math.min(beside, high);
    images.forEach((img, n) => {
      const large = element("img");
      large.src = img.src;
      large.alt = img.alt;
      large.style.width = `${sizes[0][n] * scale}px`;
      pictures.append(large);
    });
    closer.append(pictures);
    if (found.structures.length) {
      const table = element("table"), top = element("tr"), thead = element("thead"), body = element("tbody");
      for (const text of ["structure", "cm\u00b3", "extent, mm", "tunnels", "islands, mm\u00b3", "cavities, mm\u00b3", "cut at, mm\u00b2",
        "open edges"]) top.append(element("th", text));
      thead.append(top);
      for (const row of found.structures) {
        const line = element("tr");
        for (const text of row) line.append(element("td", text || "\u2013"));
        body.append(line);
      }
      table.append(thead, body);
      const scroll = element("div", "", "scroll");
      scroll.append(table);
      closer.append(scroll);
    }
    if (found.grid) closer.append(element("p", found.grid, "note"));
    if (!closer.open) closer.showModal();
  }
  function step(by) {
    const shown = Array.from(wall.children).filter((tile) => !tile.hidden);
    const at = shown.indexOf(byRank[current]);
    if (shown.length) open(shown[(at + by + shown.length) % shown.length].dataset.rank);
  }
  wall.addEventListener("click", (event) => {
    if (event.target.closest(".shot") || event.target.closest(".chip")) open(event.target.closest(".tile").dataset.rank);
  });
  closer.addEventListener("click", (event) => { if (event.target === closer) closer.close(); });
  closer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // ---- what goes into a model
  const boxes = Array.from(document.querySelectorAll("[data-use]"));
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  function write() {
    const used = boxes.filter((box) => box.checked).map((box) => data.cases[box.dataset.use]);
    for (const box of boxes) byRank[box.dataset.use].classList.toggle("away", !box.checked);
    const paths = used.map((found) => quoted(found.path)).sort();
    const labels = data.labels.length ? ` --labels ${data.labels.map(quoted).join(" ")}` : "";
    document.getElementById("ticked").textContent = `${used.length} of ${boxes.length} cases are ticked`;
    document.getElementById("command").textContent = `shapefit build ${paths.join(" ")}${labels} -o model.h5`;
  }
  for (const box of boxes) box.addEventListener("change", write);
  const tick = (choose) => { for (const box of boxes) box.checked = choose(data.cases[box.dataset.use]); write(); };
  document.getElementById("tick").addEventListener("click", () => tick((found) => !found.flags.length));
  document.getElementById("tickall").addEventListener("click", () => tick((found) => !found.error));
  document.getElementById("copy").addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    navigator.clipboard?.writeText(range.toString()).catch(() => {});
  });
  show();
  write();
});
