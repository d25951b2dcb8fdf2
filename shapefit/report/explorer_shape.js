"use strict";
// The arithmetic of a shape model: mean + sum of coefficients times modes, and what is measured on it. All mm.
shapefit.shapeModel = (packed) => {
  const mean = Float64Array.from(shapefit.floats(packed.mean));
  const faces = shapefit.integers(packed.faces);
  const modes = packed.modes.map(({ scale, digits }) => {
    const bytes = shapefit.octets(digits), out = new Float32Array(bytes.length / 3);
    for (let n = 0, b = 0; n < out.length; n++, b += 3) {
      out[n] = scale * (bytes[b] | (bytes[b + 1] << 8) | ((bytes[b + 2] << 24) >> 8)); // 24 bits with a sign
    }
    return out;
  });
  const count = mean.length / 3;

  function bend(coefficients, out) {
    out.set(mean);
    coefficients.forEach((c, k) => {
      if (c === 0) return;
      const mode = modes[k];
      for (let n = 0; n < out.length; n++) out[n] += c * mode[n];
    });
    return out;
  }

  // Sums of the face normals around each vertex, weighted by area; not of unit length.
  function normals(at, out) {
    out.fill(0);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = at[b] - at[a], uy = at[b + 1] - at[a + 1], uz = at[b + 2] - at[a + 2];
      const vx = at[c] - at[a], vy = at[c + 1] - at[a + 1], vz = at[c + 2] - at[a + 2];
      const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
      out[a] += x; out[a + 1] += y; out[a + 2] += z;
      out[b] += x; out[b + 1] += y; out[b + 2] += z;
      out[c] += x; out[c + 1] += y; out[c + 2] += z;
    }
    return out;
  }

  const meanNormals = normals(mean, new Float32Array(mean.length));
  for (let n = 0; n < meanNormals.length; n += 3) {
    const size = Math.hypot(meanNormals[n], meanNormals[n + 1], meanNormals[n + 2]) || 1;
    for (let d = 0; d < 3; d++) meanNormals[n + d] /= size;
  }

  // How far each vertex lies from its place on the mean; with a sign, along the mean's outward normal.
  function distance(at, signed, out) {
    for (let n = 0, i = 0; n < count; n++, i += 3) {
      const x = at[i] - mean[i], y = at[i + 1] - mean[i + 1], z = at[i + 2] - mean[i + 2];
      out[n] = signed ? x * meanNormals[i] + y * meanNormals[i + 1] + z * meanNormals[i + 2]
        : Math.sqrt(x * x + y * y + z * z);
    }
    return out;
  }

  // Standard deviation of each vertex: the root of the variances along x, y and z together.
  function spread(of) {
    if (of === "all") return shapefit.floats(packed.spread);
    const out = new Float32Array(count);
    for (const mode of of === "packed" ? modes : [modes[Number(of)]]) {
      for (let n = 0; n < mode.length; n++) out[(n / 3) | 0] += mode[n] * mode[n];
    }
    return out.map(Math.sqrt);
  }

  // Points that the mesh carries, and the outward direction there.
  function carried(field) {
    const { corners, weights } = packed.landmarks;
    return corners.map((corner, l) => [0, 1, 2].map((d) =>
      corner.reduce((sum, vertex, k) => sum + weights[l][k] * field[3 * vertex + d], 0)));
  }

  return { mean, faces, modes, count, bend, normals, distance, spread, carried };
};
