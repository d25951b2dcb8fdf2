"""A statistical shape model: mean, components and standard deviations of shapes in correspondence.

Model frame: axes RAS, mm, origin at the mean's centroid. Size is part of the shape: alignment is rigid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.pca import principal_components, procrustes


class Landmarks(NamedTuple):
    """Named points carried on the surface: a face and the barycentric coordinates in it."""

    names: tuple[str, ...]
    face: Int[Tensor, " L"]
    barycentric: Float[Tensor, "L 3"]


def no_landmarks() -> Landmarks:
    """The landmarks of a model that has none."""
    return Landmarks((), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.float64))


@dataclass(frozen=True)
class ShapeModel:
    """Shapes mean + sum_k c_k std_k components_k, with coefficients c in standard deviations.

    `components` are orthonormal when flattened; `structure` numbers the bone of each face from 0, in the
    order of `names`; `labels` are the bones' ids in segmentations. `scores` (N,K) are the coefficients of
    the training shapes, `cases` their names (a mirrored shape has its case's name and `~`).
    """

    mean: Float[Tensor, "V 3"]
    components: Float[Tensor, "K V 3"]
    std: Float[Tensor, " K"]
    noise_variance: float
    faces: Int[Tensor, "F 3"]
    structure: Int[Tensor, " F"]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    landmarks: Landmarks = field(default_factory=no_landmarks)
    scores: Float[Tensor, "N K"] = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    cases: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def modes(self) -> int:
        """Number of components K."""
        return len(self.std)

    def instance(self, coefficients: Float[Tensor, "*B K"]) -> Float[Tensor, "*B V 3"]:
        """Vertices (mm, model frame) for coefficients in standard deviations; differentiable.

        Fewer coefficients than modes leave the others at zero. Dtype and device are the coefficients'.
        Raises ValueError for more coefficients than modes.
        """
        count = coefficients.shape[-1]
        if count > self.modes:
            raise ValueError(f"the model has {self.modes} modes, got {count} coefficients")
        like = {"dtype": coefficients.dtype, "device": coefficients.device}
        basis = (self.components[:count] * self.std[:count, None, None]).to(**like)
        return self.mean.to(**like) + torch.tensordot(coefficients, basis, dims=([-1], [0]))

    def coefficients(self, vertices: Float[Tensor, "V 3"]) -> Float[Tensor, " K"]:
        """Coefficients (std) of the nearest shape of the model; vertices in correspondence, model frame."""
        offset = (vertices.to(self.mean) - self.mean).reshape(-1)
        return (self.components.reshape(self.modes, -1) @ offset) / self.std

    def landmark_positions(self, vertices: Float[Tensor, "*B V 3"]) -> Float[Tensor, "*B L 3"]:
        """Where the landmarks lie (mm) on vertices of this model's mesh."""
        corners = vertices[..., self.faces[self.landmarks.face].to(vertices.device), :]
        return (corners * self.landmarks.barycentric.to(corners)[..., None]).sum(-2)

    def surfaces(self, vertices: Float[Tensor, "V 3"]) -> dict[str, trimesh.Trimesh]:
        """One closed mesh per structure from vertices (V,3) in mm, in the order of the names."""
        array = vertices.detach().cpu().double().numpy()
        meshes = {}
        for index, name in enumerate(self.names):
            faces = self.faces[self.structure == index].numpy()
            used, local = np.unique(faces, return_inverse=True)
            meshes[name] = trimesh.Trimesh(array[used], local.reshape(-1, 3), process=False)
        return meshes

    def sample(self, count: int, seed: int = 0) -> Float[Tensor, "N V 3"]:
        """`count` random shapes, coefficients standard normal."""
        generator = torch.Generator().manual_seed(seed)
        return self.instance(torch.randn(count, self.modes, generator=generator, dtype=self.mean.dtype))

    def truncate(self, modes: int) -> "ShapeModel":
        """The model of the first `modes` components; what the others explained goes into the noise.

        Raises ValueError for a negative number.
        """
        if modes < 0:
            raise ValueError(f"cannot keep {modes} modes")
        lost = float((self.std[modes:] ** 2).sum()) / self.mean.numel()
        return replace(
            self,
            components=self.components[:modes],
            std=self.std[:modes],
            scores=self.scores[:, :modes],
            noise_variance=self.noise_variance + lost,
        )

    def training_shapes(self) -> Float[Tensor, "N V 3"]:
        """The training shapes as the model holds them (mm), one row per entry of `cases`."""
        return self.instance(self.scores)

    def without(self, case: str) -> "ShapeModel":
        """The model of the other training cases (and their mirror images): alignment and PCA redone.

        Template and landmarks stay. Raises ValueError for an unknown case or if fewer than 2 shapes remain.
        """
        rows = [index for index, name in enumerate(self.cases) if name.removesuffix("~") != case]
        if len(rows) == len(self.cases):
            known = ", ".join(sorted({name.removesuffix("~") for name in self.cases})) or "none"
            raise ValueError(f"the model has no training case {case!r}; it has {known}")
        return train(
            self.training_shapes()[rows],
            self.faces,
            self.structure,
            self.names,
            self.labels,
            landmarks=self.landmarks,
            cases=tuple(self.cases[index] for index in rows),
            metadata={**self.metadata, "without": case},
        )


def train(
    shapes: Float[Tensor, "N V 3"],
    faces: Int[Tensor, "F 3"],
    structure: Int[Tensor, " F"],
    names: Sequence[str],
    labels: Sequence[int],
    landmarks: Landmarks | None = None,
    cases: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> ShapeModel:
    """Shape model of shapes in correspondence (mm, any rigid placement).

    Generalised Procrustes without scaling (Gower 1975), then PCA; modes that explain less than a
    millionth of the variance are left out. Raises ValueError for fewer than 2 shapes.
    """
    if len(shapes) < 2:
        raise ValueError(f"a shape model needs at least 2 shapes, got {len(shapes)}")
    mean, components, std, scores = principal_components(procrustes(shapes.double()))
    return ShapeModel(
        mean=mean,
        components=components,
        std=std,
        noise_variance=0.0,
        faces=faces.long(),
        structure=structure.long(),
        names=tuple(names),
        labels=tuple(int(label) for label in labels),
        landmarks=landmarks or no_landmarks(),
        scores=scores,
        cases=tuple(cases),
        metadata={"frame": "RAS", "units": "mm", **(metadata or {})},
    )
