"use strict";
// A shape as a binary PLY file (mm, 32-bit floats, RAS as 3D Slicer understands it), of the parts given by their spans.
shapefit.surfaceFile = (positions, faces, spans, comments) => {
  const vertices = spans.reduce((sum, span) => sum + span[1], 0), triangles = spans.reduce((sum, span) => sum + span[3], 0);
  const header = ["ply", "format binary_little_endian 1.0",
    ...["shapefit", "SPACE=RAS", "units mm", ...comments].map((text) => `comment ${text.replace(/[^ -~]/g, "?")}`),
    `element vertex ${vertices}`, "property float x", "property float y", "property float z",
    `element face ${triangles}`, "property list uchar int vertex_indices", "end_header", ""].join("\n");
  const body = new DataView(new ArrayBuffer(12 * vertices + 13 * triangles));
  let at = 0, first = 0;
  for (const [start, count] of spans) {
    for (let n = 3 * start; n < 3 * (start + count); n++, at += 4) body.setFloat32(at, positions[n], true);
  }
  for (const [start, count, face, number] of spans) {
    for (let f = face; f < face + number; f++) {
      body.setUint8(at++, 3);
      for (let k = 0; k < 3; k++, at += 4) body.setInt32(at, faces[3 * f + k] - start + first, true);
    }
    first += count;
  }
  return new Blob([header, body.buffer], { type: "application/octet-stream" });
};

shapefit.save = (blob, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
