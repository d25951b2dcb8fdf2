"""A shape model on fewer faces: the same modes, for searching where detail does not count yet."""

from dataclasses import replace

import fast_simplification
import numpy as np
import torch

from shapefit.mesh import boundary_edges, closest_points
from shapefit.shape_model import ShapeModel, no_landmarks


def coarsened(model: ShapeModel, faces: int) -> ShapeModel:
    """The model with about `faces` faces in each structure, closed as before.

    The mean is decimated by quadric error (Garland & Heckbert 1997); each new vertex takes the modes
    of the nearest point of the old mean. A structure that would not stay closed keeps its faces.
    The components are then no longer orthonormal, but the instances are those of the model.
    """
    vertices, components, triangles, structure, offset = [], [], [], [], 0
    for s in range(len(model.names)):
        used, old = np.unique(model.faces[model.structure == s].numpy(), return_inverse=True)
        old = old.reshape(-1, 3)
        mean, modes = model.mean[used].numpy(), model.components[:, used].numpy()
        new_mean, new = mean, old
        if len(old) > faces:
            simplified = fast_simplification.simplify(
                mean.astype(np.float32), old.astype(np.int32), target_count=faces
            )
            if boundary_edges(simplified[1]) == 0:
                new_mean, new = simplified
        nearest = closest_points(new_mean, mean, old)
        vertices.append(new_mean)
        components.append(np.einsum("vc,kvcx->kvx", nearest.barycentric, modes[:, old[nearest.face]]))
        triangles.append(new + offset)
        structure.append(np.full(len(new), s))
        offset += len(new_mean)
    return replace(
        model,
        mean=torch.from_numpy(np.concatenate(vertices).astype(np.float64)),
        components=torch.from_numpy(np.concatenate(components, 1)),
        faces=torch.from_numpy(np.concatenate(triangles).astype(np.int64)),
        structure=torch.from_numpy(np.concatenate(structure).astype(np.int64)),
        landmarks=no_landmarks(),
    )
