import numpy as np
import pytest
import torch
import trimesh

from shapefit import se3
from shapefit.camera import Camera, ray_lengths
from shapefit.mesh import face_normals
from tests.twins import BACKENDS, render_depths, render_mesh


def mesh_tensors(mesh: trimesh.Trimesh):
    return torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces))


def pose(twist=(0.3, 0.2, 0.1, 3.0, 4.0, 5.0), depth=700.0):
    camera_from_world = torch.eye(4, dtype=torch.float64)
    camera_from_world[2, 3] = depth
    return (camera_from_world @ se3.exp(torch.tensor(twist, dtype=torch.float64)))[None]


SPHERE = mesh_tensors(trimesh.creation.icosphere(subdivisions=3, radius=80))
TORUS = mesh_tensors(trimesh.creation.torus(major_radius=60, minor_radius=20))
CAMERA = Camera(1020.0, 4.0, 4.0, 0.0, 0.0, 72, 64)
COARSE = Camera(1020.0, 9.0, 8.0, 3.0, -2.0, 31, 34)
SHIFTED = Camera(1020.0, 7.0, 8.0, 31.0, -17.0, 25, 45)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_faceted_sphere_casts_a_path_between_the_chords_of_two_spheres(backend):
    # it contains the sphere that touches its faces, and lies in the one through its vertices
    vertices, faces = mesh_tensors(trimesh.creation.icosphere(subdivisions=4, radius=80))
    inner = (face_normals(vertices, faces) * vertices[faces[:, 0]]).sum(-1).min()
    image = render_mesh(vertices[None], faces, pose((0, 0, 0, 0, 0, 0)), CAMERA, backend=backend)[0, 0]
    miss2 = 700**2 * (1 - 1 / ray_lengths(CAMERA) ** 2)  # squared distance of the ray from the centre
    least, most = (2 * (radius**2 - miss2).clamp(min=0).sqrt() for radius in (inner, 80.0))
    assert inner > 79.8
    assert (image >= least - 1e-9).all() and (image <= most + 1e-9).all()


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("camera", [COARSE, SHIFTED])
@pytest.mark.parametrize("shape", [SPHERE, TORUS])
def test_a_twin_agrees_with_the_reference_in_values_and_gradients(shape, camera, backend):
    vertices, faces = shape
    results = []
    for name in ("torch", backend):
        v = torch.stack([vertices, 1.1 * vertices]).requires_grad_()
        t = torch.cat([pose(), pose((0.0, 1.2, -0.4, 30.0, -20.0, 10.0))]).requires_grad_()
        image = render_mesh(v, faces, t, camera, backend=name)
        first, last = render_depths(v, faces, t, camera, backend=name)
        weight = torch.linspace(0.1, 1, image.numel(), dtype=torch.float64).view_as(image)
        loss = (image.square() * weight).sum() + (first * weight.sqrt()).sum() + (last * weight).sum()
        results.append((image, first, last, *torch.autograd.grad(loss, (v, t))))
    for reference, other in zip(*results, strict=True):
        assert (reference - other).abs().max() <= 1e-9 * reference.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_path_is_exit_less_entry_for_a_convex_body(backend):
    vertices, faces = SPHERE
    image = render_mesh(vertices[None], faces, pose(), CAMERA, backend=backend)
    first, last = render_depths(vertices[None], faces, pose(), CAMERA, backend=backend)
    assert torch.allclose((last - first) * ray_lengths(CAMERA), image, atol=1e-9)
    assert ((first == 0) == (last == 0)).all() and (first[first > 0] > 600).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_image_integrates_to_the_volume(backend):
    # path x (solid angle of the pixel) x (squared distance) summed over pixels is the volume; at a large
    # distance the rays are parallel to first order and one pixel covers (pitch / magnification)^2
    vertices, faces = TORUS
    far = Camera(1e6, 2.0, 2.0, 0.0, 0.0, 128, 128)
    image = render_mesh(vertices[None], faces, pose(depth=1e6 - 500.0), far, backend=backend)
    volume = float(image.sum()) * 4.0 * ((1e6 - 500.0) / 1e6) ** 2
    box = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert volume == pytest.approx(box.volume, rel=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_structures_have_a_channel_each_and_overlaps_add(backend):
    vertices, faces = SPHERE
    both = torch.cat([vertices, vertices + torch.tensor([30.0, 0, 0])])[None]
    both_faces = torch.cat([faces, faces + len(vertices)])
    structure = torch.arange(2).repeat_interleave(len(faces))
    apart = render_mesh(both, both_faces, pose(), CAMERA, structure, backend=backend)
    together = render_mesh(both, both_faces, pose(), CAMERA, backend=backend)
    alone = render_mesh(vertices[None], faces, pose(), CAMERA, backend=backend)
    assert torch.allclose(apart[:, :1], alone, atol=1e-9)
    assert torch.allclose(apart.sum(1, keepdim=True), together, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [(0, 0), (900, 0), (0, -1500), (130, 130)])
def test_parts_beyond_the_field_are_clipped(backend, shift):
    vertices, faces = SPHERE
    moved = vertices + torch.tensor([*shift, 0.0])
    wide = Camera(1020.0, 4.0, 4.0, 0.0, 0.0, 216, 192)
    image = render_mesh(moved[None], faces, pose(), CAMERA, backend=backend)
    large = render_mesh(moved[None], faces, pose(), wide, backend=backend)
    assert torch.allclose(image, large[:, :, 72:144, 64:128], atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_depths_have_the_gradient_of_a_plane(backend):
    # the front face of a box at distance d: pushing the whole box by dz moves every depth on it by dz
    vertices, faces = mesh_tensors(trimesh.creation.box((41, 41, 40)))
    v = vertices[None].clone().requires_grad_()
    first, _ = render_depths(v, faces, pose((0, 0, 0, 0, 0, 0)), CAMERA, backend=backend)
    (gradient,) = torch.autograd.grad(first.sum(), v)
    assert float(gradient[..., 2].sum()) == pytest.approx(int((first > 0).sum()), rel=1e-9)


def test_results_do_not_depend_on_the_number_of_threads():
    import numba

    vertices, faces = TORUS
    results = []
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        v = vertices[None].clone().requires_grad_()
        image = render_mesh(v, faces, pose(), CAMERA, backend="numba")
        results.append((image.detach(), torch.autograd.grad(image.square().sum(), v)[0]))
    for image, gradient in results:
        assert torch.equal(image, results[0][0]) and torch.equal(gradient, results[0][1])


def test_an_open_mesh_is_refused_with_its_count():
    vertices, faces = SPHERE
    with pytest.raises(ValueError, match="not closed: 3 boundary edges"):
        render_mesh(vertices[None], faces[1:], pose(), CAMERA)


@pytest.mark.parametrize("depth", [50.0, -300.0])
def test_a_vertex_at_or_behind_the_source_is_refused(depth):
    vertices, faces = SPHERE
    with pytest.raises(ValueError, match="behind the X-ray source"):
        render_mesh(vertices[None], faces, pose(depth=depth), CAMERA)


def test_an_unknown_backend_is_refused_with_the_choices():
    vertices, faces = SPHERE
    with pytest.raises(ValueError, match="'cuda'; expected one of 'auto', 'torch', 'numba'"):
        render_mesh(vertices[None], faces, pose(), CAMERA, backend="cuda")
