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

from shapefit.gaussian import condition, noise_root, principal_axes
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
        return (self.components.reshape(self.modes, offset.numel()) @ offset) / self.std

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

    def sample(self, count: int, seed: int = 0, noise: bool = False) -> Float[Tensor, "N V 3"]:
        """`count` random shapes (mm), coefficients standard normal; with `noise`, that of each vertex too."""
        generator = torch.Generator().manual_seed(seed)
        shapes = self.instance(torch.randn(count, self.modes, generator=generator, dtype=self.mean.dtype))
        if noise:
            shapes = shapes + self.noise_variance**0.5 * torch.randn(
                shapes.shape, generator=generator, dtype=shapes.dtype
            )
        return shapes

    def truncate(self, modes: int) -> "ShapeModel":
        """The model of the first `modes` components; what the others explained goes into the noise.

        Maximum likelihood of probabilistic PCA (Tipping & Bishop 1999, J. R. Stat. Soc. B 61): the noise is
        the mean of the variances left out, and is taken off those kept; the total variance stays.
        Raises ValueError for a negative number.
        """
        if modes < 0:
            raise ValueError(f"cannot keep {modes} modes")
        if modes >= self.modes:
            return self
        spread = float((self.std[modes:] ** 2).sum()) / (self.mean.numel() - modes)
        std = (self.std[:modes] ** 2 - spread).sqrt()
        return replace(
            self,
            components=self.components[:modes],
            std=std,
            scores=self.scores[:, :modes] * (self.std[:modes] / std),
            noise_variance=self.noise_variance + spread,
        )

    def marginal(self, names: Sequence[str]) -> "ShapeModel":
        """The model of the structures named, in the order of this model; the frame stays that of the whole.

        Landmarks of other structures go. Raises ValueError for an unknown name and for none.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"the model has no {', '.join(unknown)}; it has {', '.join(self.names)}")
        if not names:
            raise ValueError(f"name at least one structure: {', '.join(self.names)}")
        kept = [index for index, name in enumerate(self.names) if name in names]
        faces = torch.isin(self.structure, torch.tensor(kept))
        used, local = torch.unique(self.faces[faces], return_inverse=True)
        number = torch.full((len(self.names),), -1)
        number[kept] = torch.arange(len(kept))
        marks = faces[self.landmarks.face]
        basis = (self.components[:, used] * self.std[:, None, None]).reshape(self.modes, -1)
        axes = principal_axes(basis)
        return replace(
            self,
            mean=self.mean[used],
            components=axes.components.reshape(-1, len(used), 3),
            std=axes.std,
            scores=self.scores @ axes.rotation.T,
            faces=local,
            structure=number[self.structure[faces]],
            names=tuple(self.names[index] for index in kept),
            labels=tuple(self.labels[index] for index in kept),
            landmarks=Landmarks(
                tuple(name for name, here in zip(self.landmarks.names, marks, strict=True) if here),
                (faces.cumsum(0) - 1)[self.landmarks.face[marks]],
                self.landmarks.barycentric[marks],
            ),
        )

    def posterior(
        self,
        vertices: Int[Tensor, " P"] | Int[Tensor, "P 3"],
        points: Float[Tensor, "P 3"],
        noise: float | Float[Tensor, " P"] | Float[Tensor, "P 3 3"],
        barycentric: Float[Tensor, "P 3"] | None = None,
    ) -> "ShapeModel":
        """The model of the shapes that have `vertices` at `points` (mm, model frame): closed form.

        `noise` is the standard deviation of the points in mm, of all or of each, or their covariances in
        mm^2, so that a point can be sure across a surface and unsure along it. With `barycentric`,
        `vertices` (P,3) are corners and the points lie between them (landmarks). The training shapes go:
        they are not samples of the new model. Albrecht et al. 2013, Med. Image Anal. 17(8).
        Raises ValueError for vertices that the mesh does not have, points or noise that are not finite,
        and for noise that is not positive.
        """
        corners, weights = self._places(vertices, barycentric)
        points, root = points.to(self.mean), noise_root(noise, len(points)).to(self.mean)
        if not torch.isfinite(points).all():
            raise ValueError("some of the points are not finite; leave them out")
        # the mesh's own noise is part of where a vertex is seen
        covariance = root @ root.mT + self.noise_variance * torch.eye(3).to(root)
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))
        basis = self.components * self.std[:, None, None]
        seen = whiten @ torch.einsum("pc,kpcd->pdk", weights, basis[:, corners])
        offset = whiten @ (points - (weights[..., None] * self.mean[corners]).sum(1))[..., None]
        shift, spread = condition(seen.reshape(-1, self.modes), offset.reshape(-1))
        variance, turn = torch.linalg.eigh(spread)
        rows = torch.einsum("km,kvd->mvd", turn * variance.sqrt(), basis)
        axes = principal_axes(rows.reshape(self.modes, -1))
        return replace(
            self,
            mean=self.mean + torch.tensordot(shift, basis, dims=([0], [0])),
            components=axes.components.reshape(-1, *self.mean.shape),
            std=axes.std,
            scores=torch.zeros(0, len(axes.std), dtype=self.mean.dtype),
            cases=(),
            metadata={**self.metadata, "posterior": f"{len(points)} points"},
        )

    def vertex_covariance(self) -> Float[Tensor, "V 3 3"]:
        """Covariance of each vertex in mm^2, the noise included."""
        basis = self.components * self.std[:, None, None]
        own = self.noise_variance * torch.eye(3, dtype=self.mean.dtype)
        return torch.einsum("kvi,kvj->vij", basis, basis) + own

    def vertex_std(self) -> Float[Tensor, " V"]:
        """Root mean square distance of each vertex from its mean place, in mm, the noise included."""
        return torch.einsum("vii->v", self.vertex_covariance()).sqrt()

    def _places(
        self, vertices: Int[Tensor, "P *three"], barycentric: Float[Tensor, "P 3"] | None
    ) -> tuple[Int[Tensor, "P C"], Float[Tensor, "P C"]]:
        if beyond := [v for v in vertices.flatten().tolist() if not 0 <= v < len(self.mean)]:
            raise ValueError(f"vertices are numbered from 0 to {len(self.mean) - 1}; got {beyond[0]}")
        if (vertices.ndim == 2) != (barycentric is not None):
            raise ValueError("three corners per point need barycentric coordinates, and one vertex has none")
        if barycentric is None:
            return vertices[:, None], torch.ones(len(vertices), 1, dtype=self.mean.dtype)
        return vertices, barycentric.to(self.mean)

    @property
    def owners(self) -> tuple[str, ...]:
        """The case that each training shape is of: its own name, of a mirror image that without the `~`."""
        return tuple(case.removesuffix("~") for case in self.cases)

    def subjects(self, most: int = 0) -> list[str]:
        """Training cases without their mirror images; at most so many, evenly chosen (0: all)."""
        names = list(dict.fromkeys(self.owners))
        if not most or len(names) <= most:
            return names
        return [names[round(place)] for place in np.linspace(0, len(names) - 1, most)]

    def training_shapes(self) -> Float[Tensor, "N V 3"]:
        """The training shapes as the model holds them (mm), one row per entry of `cases`."""
        return self.instance(self.scores)

    def without(self, case: str) -> "ShapeModel":
        """The model of the other training cases (and their mirror images): alignment and PCA redone.

        Template and landmarks stay. Raises ValueError for an unknown case or if fewer than 2 shapes remain.
        """
        rows = [index for index, owner in enumerate(self.owners) if owner != case]
        if len(rows) == len(self.cases):
            known = ", ".join(sorted(self.subjects())) or "none"
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
