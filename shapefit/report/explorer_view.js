"use strict";
// A small WebGL2 viewer: one shaded mesh in several parts, balls at points, in parallel projection, so that a
// millimetre is equally long everywhere. World axes are RAS: x to the body's right, y to its front, z up.
shapefit.viewer = (canvas, { mean, faces, structures, background }) => { // null where there is no WebGL 2
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const LOOKS = { // degrees: azimuth from the body's right towards its front, and elevation
    oblique: [66, 18], front: [90, 0], back: [-90, 0], left: [180, 0], right: [0, 0], above: [-90, 90],
  };
  const PLACE = `#version 300 es
    uniform mat3 axes; uniform vec3 target; uniform vec2 pan; uniform vec3 scale;
    vec3 place(vec3 point) { return (point - target) * axes + vec3(pan, 0.0); } // right, up, towards the eye; mm
    vec4 clip(vec3 seen) { return vec4(seen.xy * scale.xy, -seen.z * scale.z, 1.0); }`;
  const SHADE = `#version 300 es
    precision highp float;
    uniform vec3 paper; out vec4 shown;
    vec3 shade(vec3 base, vec3 n, float nearness, float contrast) { // less contrast where colour is a figure
      float key = max(dot(n, vec3(-0.40, 0.56, 0.72)), 0.0);     // a lamp over the viewer's left shoulder
      float fill = max(dot(n, vec3(0.75, -0.10, 0.65)), 0.0);    // a weaker one from the right
      float sky = 0.5 + 0.5 * n.y;
      float light = mix(0.72, 0.20, contrast) + mix(0.26, 0.72, contrast) * key + mix(0.08, 0.16, contrast) * fill
        + 0.08 * sky;
      float gloss = 0.10 * contrast * pow(max(dot(n, normalize(vec3(-0.40, 0.56, 1.72))), 0.0), 24.0);
      vec3 lit = base * light + gloss;
      return pow(mix(lit, paper, 0.35 * contrast * smoothstep(0.0, 1.0, -nearness)), vec3(1.0 / 2.2)); // the far side pales
    }`;
  const MESH = [`${PLACE}
    in vec3 position; in vec3 normal; in float value; out vec3 facing; out float carried; out float nearness;
    void main() {
      vec3 seen = place(position);
      facing = normal * axes; carried = value; nearness = seen.z * scale.z; gl_Position = clip(seen);
    }`, `${SHADE}
    uniform vec3 colour; uniform bool valued; uniform vec2 limits; uniform sampler2D ramp;
    in vec3 facing; in float carried; in float nearness;
    void main() {
      vec3 n = normalize(facing);
      if (!gl_FrontFacing) n = -n;
      float at = clamp((carried - limits.x) / (limits.y - limits.x), 0.0, 1.0) * 255.0 / 256.0 + 0.5 / 256.0;
      vec3 base = valued ? pow(texture(ramp, vec2(at, 0.5)).rgb, vec3(2.2)) : colour;
      shown = vec4(shade(base, n, nearness, valued ? 0.45 : 1.0), 1.0);
    }`];
  const BALL = [`${PLACE}
    in vec3 position; uniform float radius; uniform float pixels; out float nearness;
    void main() {
      vec3 seen = place(position);
      nearness = seen.z * scale.z; gl_Position = clip(seen); gl_PointSize = 2.0 * radius * pixels;
    }`, `${SHADE}
    uniform vec3 colour; uniform float radius; uniform float depth; in float nearness;
    void main() {
      vec2 at = vec2(2.0, -2.0) * gl_PointCoord + vec2(-1.0, 1.0);
      float rest = 1.0 - dot(at, at);
      if (rest < 0.0) discard;
      gl_FragDepth = gl_FragCoord.z - 0.5 * sqrt(rest) * radius * depth;
      shown = vec4(shade(colour, vec3(at, sqrt(rest)), nearness, 1.0), 1.0);
    }`];

  const linear = (hex) => [1, 3, 5].map((k) => (parseInt(hex.slice(k, k + 2), 16) / 255) ** 2.2);
  const size = [0, 1, 2].map((d) => {
    let low = Infinity, high = -Infinity;
    for (let n = d; n < mean.length; n += 3) { low = Math.min(low, mean[n]); high = Math.max(high, mean[n]); }
    return [low, high];
  });
  const target = size.map(([low, high]) => (low + high) / 2), extent = size.map(([low, high]) => high - low);
  const reach = 0.9 * Math.hypot(...extent); // mm from the middle to the clipping planes
  const camera = { azimuth: 66, elevation: 18, zoom: 1, pan: [0, 0] };
  const state = { balls: new Float32Array(0), limits: null, hidden: new Set(), watchers: [], lost: false };
  let gpu = null, waiting = false;

  function program([vertex, fragment]) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error(`the graphics driver refused a shader: ${gl.getShaderInfoLog(shader)}`);
      }
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    const uniform = {};
    for (let n = 0; n < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); n++) {
      const { name } = gl.getActiveUniform(made, n);
      uniform[name] = gl.getUniformLocation(made, name);
    }
    return { made, uniform };
  }

  function attribute(owner, name, width, bytes) {
    const buffer = gl.createBuffer(), at = gl.getAttribLocation(owner.made, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    if (bytes) gl.bufferData(gl.ARRAY_BUFFER, bytes, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, width, gl.FLOAT, false, 0, 0);
    return buffer;
  }

  // All that lives on the graphics card; made again if the browser takes the card away for a while.
  function prepare() {
    const mesh = program(MESH), ball = program(BALL), rows = gl.createVertexArray(), dots = gl.createVertexArray();
    gl.bindVertexArray(rows);
    gpu = { mesh, ball, rows, dots, position: attribute(mesh, "position", 3, 4 * mean.length),
      normal: attribute(mesh, "normal", 3, 4 * mean.length), value: attribute(mesh, "value", 1, (4 * mean.length) / 3) };
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    gl.bindVertexArray(dots);
    gpu.balls = attribute(ball, "position", 3, 0);
    gl.bindVertexArray(null);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const key of ["MIN_FILTER", "MAG_FILTER"]) gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${key}`], gl.LINEAR);
    for (const key of ["WRAP_S", "WRAP_T"]) gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${key}`], gl.CLAMP_TO_EDGE);
    gl.enable(gl.DEPTH_TEST);
  }
  prepare();

  function upload(buffer, array) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, array);
  }

  function axes() { // right, up and towards the eye
    const a = (camera.azimuth * Math.PI) / 180, e = (camera.elevation * Math.PI) / 180;
    const eye = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
    const right = [-Math.sin(a), Math.cos(a), 0];
    return [right, [eye[1] * right[2] - eye[2] * right[1], eye[2] * right[0] - eye[0] * right[2],
      eye[0] * right[1] - eye[1] * right[0]], eye];
  }

  // CSS pixels per mm: at zoom 1 everything has room, however one turns it.
  const pixels = () => camera.zoom * Math.min(canvas.clientWidth / (1.12 * Math.hypot(extent[0], 0.45 * extent[1])),
    canvas.clientHeight / (1.3 * Math.hypot(extent[2], 0.45 * extent[1])));

  function project(points) { // CSS pixels from the top left, and mm towards the eye
    const frame = axes(), scale = pixels();
    return points.map((p) => {
      const seen = frame.map((axis) => axis.reduce((sum, v, d) => sum + v * (p[d] - target[d]), 0));
      return [canvas.clientWidth / 2 + (seen[0] + camera.pan[0]) * scale,
        canvas.clientHeight / 2 - (seen[1] + camera.pan[1]) * scale, seen[2]];
    });
  }

  function common({ made, uniform }, scale) {
    gl.useProgram(made);
    gl.uniformMatrix3fv(uniform.axes, false, axes().flat());
    gl.uniform3fv(uniform.target, target);
    gl.uniform2fv(uniform.pan, camera.pan);
    gl.uniform3f(uniform.scale, (2 * scale) / canvas.clientWidth, (2 * scale) / canvas.clientHeight, 1 / reach);
    gl.uniform3fv(uniform.paper, linear(background));
  }

  function paint() {
    waiting = false;
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * dense), height = Math.round(canvas.clientHeight * dense);
    if (state.lost || !width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const scale = pixels(), { mesh, ball } = gpu;
    gl.viewport(0, 0, width, height);
    gl.clearColor(...linear(background).map((v) => v ** (1 / 2.2)), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    common(mesh, scale);
    gl.uniform1i(mesh.uniform.valued, state.limits ? 1 : 0);
    if (state.limits) gl.uniform2fv(mesh.uniform.limits, state.limits);
    gl.bindVertexArray(gpu.rows);
    structures.forEach(({ colour, span }, n) => {
      if (state.hidden.has(n)) return;
      gl.uniform3fv(mesh.uniform.colour, linear(colour));
      gl.drawElements(gl.TRIANGLES, 3 * span[3], gl.UNSIGNED_INT, 12 * span[2]);
    });
    if (state.balls.length) {
      common(ball, scale);
      gl.uniform3fv(ball.uniform.colour, linear("#1c1c1e"));
      gl.uniform1f(ball.uniform.radius, 2.2 / Math.sqrt(camera.zoom));
      gl.uniform1f(ball.uniform.pixels, scale * dense);
      gl.uniform1f(ball.uniform.depth, 1 / reach);
      gl.bindVertexArray(gpu.dots);
      gl.drawArrays(gl.POINTS, 0, state.balls.length / 3);
    }
    gl.bindVertexArray(null);
    state.watchers.forEach((watch) => watch());
  }

  function draw() { // at most once per frame, whatever asks for it
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(paint);
  }

  function surface(positions, normals) {
    state.surface = [positions, normals];
    upload(gpu.position, positions);
    upload(gpu.normal, normals);
    draw();
  }

  function values(array, limits, ramp) { // null: each part in its own colour
    state.values = [array, limits, ramp];
    state.limits = array && limits;
    if (array) upload(gpu.value, array);
    if (array && gpu.ramp !== ramp) {
      gpu.ramp = ramp;
      const row = new Uint8Array(256 * 4);
      for (let n = 0; n < 256; n++) {
        const at = (n / 255) * (ramp.length - 1), low = Math.min(Math.floor(at), ramp.length - 2);
        for (let d = 0; d < 3; d++) {
          const [a, b] = [ramp[low], ramp[low + 1]].map((hex) => parseInt(hex.slice(1 + 2 * d, 3 + 2 * d), 16));
          row[4 * n + d] = Math.round(a + (b - a) * (at - low));
        }
        row[4 * n + 3] = 255;
      }
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, row);
    }
    draw();
  }

  function balls(points) {
    state.balls = new Float32Array(points.flat());
    gl.bindBuffer(gl.ARRAY_BUFFER, gpu.balls);
    gl.bufferData(gl.ARRAY_BUFFER, state.balls, gl.DYNAMIC_DRAW);
    draw();
  }

  function show(part, visible) {
    if (visible) state.hidden.delete(part); else state.hidden.add(part);
    draw();
  }

  function look(name) {
    const [azimuth, elevation] = LOOKS[name] || [camera.azimuth, camera.elevation];
    Object.assign(camera, { azimuth, elevation, zoom: 1, pan: [0, 0] });
    draw();
  }

  canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); state.lost = true; });
  canvas.addEventListener("webglcontextrestored", () => {
    state.lost = false;
    prepare();
    surface(...state.surface);
    if (state.values) values(...state.values);
    gl.bindBuffer(gl.ARRAY_BUFFER, gpu.balls);
    gl.bufferData(gl.ARRAY_BUFFER, state.balls, gl.DYNAMIC_DRAW);
  });
  new ResizeObserver(draw).observe(canvas);
  return { surface, values, balls, show, look, draw, paint, project, pixels, axes, camera, watch: (act) => state.watchers.push(act) };
};
