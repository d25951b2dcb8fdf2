"""Meshes and cameras of other libraries. Where PyTorch3D is installed, its own rasteriser is the witness."""

import math

import numpy as np
import pytest
import torch
import trimesh

from shapefit import mesh, se3
from shapefit.camera import Camera, ray_lengths, world_from_view
from shapefit.interop import accepts_foreign, camera_from_pytorch3d, mesh_arrays, pytorch3d_from_camera
from shapefit.metrics import compare
from shapefit.render import render_depths, render_mesh
from shapefit.render.simulate import simulate_view
from shapefit.render.xray import shell_and_interior
from shapefit.settings import EvaluateSettings

CAMERA = Camera(sdd=1020.0, delx=2.1, dely=1.9, x0=7.0, y0=-5.0, height=48, width=64)


def bone(radius: float = 40.0) -> trimesh.Trimesh:
    shape = trimesh.creation.icosphere(3, radius)
    shape.vertices = shape.vertices * [1.0, 0.6, 1.3] + [3.0, -2.0, 5.0]
    return shape


def poses(count: int) -> torch.Tensor:
    """Views from in front of the patient, each turned a little further."""
    front = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)
    turns = [torch.tensor([0.1 * n, 0.2 * n, -0.1 * n, 0, 0, 0], dtype=torch.float64) for n in range(count)]
    return torch.stack([se3.inverse(se3.exp(turn) @ front) for turn in turns])


def tensors(shape: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(np.array(shape.vertices)), torch.tensor(np.array(shape.faces))


# ---- trimesh


def test_a_trimesh_is_rendered_as_its_arrays_are():
    vertices, faces = tensors(bone())
    pose = poses(3)
    expected = render_mesh(vertices.expand(3, -1, -1), faces, pose, CAMERA)
    assert float(expected.max()) > 40
    assert torch.equal(render_mesh(bone(), pose, CAMERA), expected)
    assert torch.equal(render_mesh(bone(), camera=CAMERA, camera_from_world=pose), expected)
    assert torch.equal(render_mesh(vertices=bone(), camera_from_world=pose, camera=CAMERA), expected)
    for ours, theirs in zip(
        render_depths(bone(), pose, CAMERA, backend="torch"),
        render_depths(vertices.expand(3, -1, -1), faces, pose, CAMERA, backend="torch"),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_arrays_by_place_and_by_name_mean_what_they_meant():
    vertices, faces = tensors(bone())
    structure = (torch.arange(len(faces)) * 0).long()
    by_place = render_mesh(vertices[None], faces, poses(1), CAMERA, structure)
    by_name = render_mesh(
        structure=structure, camera=CAMERA, camera_from_world=poses(1), faces=faces, vertices=vertices[None]
    )
    assert torch.equal(by_place, by_name)


def test_named_meshes_are_the_channels_in_their_order():
    left, right = bone(30.0), bone(20.0)
    right.apply_translation([60.0, 0.0, 0.0])
    pose = poses(2)
    both = render_mesh({"hip_right": right, "hip_left": left}, pose, CAMERA)
    assert both.shape == (2, 2, CAMERA.height, CAMERA.width)
    assert torch.equal(both[:, :1], render_mesh(right, pose, CAMERA))
    assert torch.equal(both[:, 1:], render_mesh(left, pose, CAMERA))
    # a keyword overrides what the meshes bring: one channel, which is the sum
    together = torch.zeros(len(left.faces) + len(right.faces), dtype=torch.int64)
    union = render_mesh({"hip_right": right, "hip_left": left}, pose, CAMERA, structure=together)
    torch.testing.assert_close(union[:, 0], both.sum(1), atol=1e-9, rtol=0)


def test_a_mesh_takes_the_dtype_of_the_poses():
    assert render_mesh(bone(), poses(1), CAMERA).dtype == torch.float64
    assert render_mesh(bone(), poses(1).float(), CAMERA).dtype == torch.float32


def test_the_other_renderers_take_meshes_too():
    vertices, faces = tensors(bone())
    structure = torch.zeros(len(faces), dtype=torch.int64)
    outer, inner = shell_and_interior(bone(), poses(1), CAMERA, 3.0)
    expected = shell_and_interior(vertices[None], faces, poses(1), CAMERA, 3.0)
    assert torch.equal(outer, expected[0]) and torch.equal(inner, expected[1])
    world_from_camera = se3.inverse(poses(1)[0])
    view = simulate_view(bone(), world_from_camera, CAMERA, 3)
    assert torch.equal(
        view.image, simulate_view(vertices, faces, structure, world_from_camera, CAMERA, 3).image
    )


def test_the_geometry_of_a_trimesh_is_that_of_its_arrays():
    shape = bone()
    vertices, faces = tensors(shape)
    assert torch.equal(mesh.face_normals(shape, unit=False), mesh.face_normals(vertices, faces, False))
    assert torch.equal(mesh.vertex_normals(shape), mesh.vertex_normals(vertices, faces))
    assert float(mesh.area(shape)) == pytest.approx(shape.area)
    assert float(mesh.volume(shape)) == pytest.approx(shape.volume)
    assert float(mesh.volume({"one": shape, "two": shape})) == pytest.approx(2 * shape.volume)
    mesh.require_closed(shape)
    shape.update_faces(np.arange(len(shape.faces)) > 0)
    assert mesh.boundary_edges(shape) == 3
    with pytest.raises(ValueError, match=r"hip\.ply is not closed: 3 boundary edges"):
        mesh.require_closed(shape, "hip.ply")


def test_points_on_a_trimesh_are_those_on_its_arrays():
    shape = bone()
    arrays = np.array(shape.vertices), np.array(shape.faces)
    points, face = mesh.sample_surface(shape, 50, seed=4)
    again, same = mesh.sample_surface(*arrays, 50, seed=4)
    assert np.array_equal(points, again) and np.array_equal(face, same)
    away = points * 1.1
    found = mesh.closest_points(away, shape)
    assert np.array_equal(found.distance, mesh.closest_points(away, *arrays).distance)
    assert np.array_equal(found.distance, mesh.closest_on(mesh.surface_tree(shape), away).distance)
    assert np.array_equal(found.distance, mesh.closest_points(torch.tensor(away), *tensors(shape)).distance)


def test_two_meshes_are_compared_as_two_sets_of_one():
    one, other = bone(), bone()
    other.apply_translation([1.0, 0.0, 0.0])
    settings = EvaluateSettings(samples=500, voxel=4.0)
    record = compare(one, other, settings)
    assert record["metrics"] == compare({"mesh": one}, {"mesh": other}, settings)["metrics"]
    assert 0.3 < record["metrics"]["absolute"]["mesh"]["assd"] < 1.0


def test_what_is_no_mesh_is_an_error_that_says_what_is():
    for wrong in ([bone()], {}, {"cloud": trimesh.PointCloud(np.zeros((3, 3)))}, "bone.ply"):
        with pytest.raises(ValueError, match="expected vertices and faces as arrays, or one trimesh"):
            render_mesh(wrong, poses(1), CAMERA)
    with pytest.raises(ValueError, match=r"expected camera_from_world \(B, 4, 4\) and a Camera.*got Camera"):
        render_mesh(bone(), CAMERA)
    with pytest.raises(TypeError, match="camera"):
        render_mesh(bone(), poses(1))


def test_the_documentation_of_a_function_stays_its_own():
    import inspect

    assert list(inspect.signature(render_mesh).parameters)[:4] == [
        "vertices", "faces", "camera_from_world", "camera"
    ]  # fmt: skip
    assert "detector ray" in render_mesh.__doc__ and render_mesh.__name__ == "render_mesh"


def test_the_door_is_no_break_for_the_compiler():
    @accepts_foreign
    def largest(vertices, faces, camera_from_world, camera):
        return (vertices @ camera_from_world[:, :3, :3].mT).amax(1) * camera.delx

    vertices, faces = tensors(bone())
    compiled = torch.compile(largest, fullgraph=True, backend="eager")
    assert torch.equal(compiled(vertices[None], faces, poses(1), CAMERA), largest(bone(), poses(1), CAMERA))


# ---- PyTorch3D's arithmetic, without it


class Matrix:
    """A Transform3d: it acts on row vectors from the right."""

    def __init__(self, matrix: torch.Tensor):
        self.matrix = matrix

    def get_matrix(self) -> torch.Tensor:
        return self.matrix


class PerspectiveStandIn:
    """What PyTorch3D's PerspectiveCameras document, in float64, step by step."""

    __module__ = "pytorch3d.standin"

    def __init__(self, focal, centre, R, T, in_ndc, image_size=None):
        self.focal, self.centre, self.R, self.T = focal, centre, R, T
        self.ndc, self.image_size = in_ndc, image_size

    def get_projection_transform(self):
        (fx, fy), (px, py) = self.focal.unbind(-1), self.centre.unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        k = [[fx, zero, px, zero], [zero, fy, py, zero], [zero, zero, zero, one], [zero, zero, one, zero]]
        return Matrix(torch.stack([torch.stack(row, -1) for row in k], -2).mT)

    def get_image_size(self):
        return self.image_size

    def is_perspective(self):
        return True

    def in_ndc(self):
        return self.ndc

    def screen(self, points: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Where points (N, 3) appear (B, N, 2), from the left and the top, as its documentation has it."""
        seen = points @ self.R + self.T[:, None]
        x, y, z = seen.unbind(-1)
        size, s = torch.tensor([width, height]), min(height, width) / 2
        flat = torch.stack([x / z, y / z], -1) * self.focal[:, None]
        if self.ndc:  # +x left, +y up, the shorter side from -1 to 1
            return size / 2 - s * (flat + self.centre[:, None])
        return self.centre[:, None] - flat


def stand_in(in_ndc: bool, count: int = 2, **changes) -> PerspectiveStandIn:
    pose = poses(count)
    turn = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    fields = {
        "focal": torch.tensor([[20.0, 22.0]] if in_ndc else [[480.0, 530.0]], dtype=torch.float64),
        "centre": torch.tensor([[0.1, -0.2]] if in_ndc else [[35.0, 22.0]], dtype=torch.float64),
        "R": (turn[:, None] * pose[:, :3, :3]).mT,
        "T": turn * pose[:, :3, 3],
        "image_size": torch.tensor([[48.0, 64.0]]),
    } | changes
    fields = {k: v.expand(count, -1) if k in ("focal", "centre") else v for k, v in fields.items()}
    return PerspectiveStandIn(in_ndc=in_ndc, **fields)


@pytest.mark.parametrize("in_ndc", [True, False], ids=["ndc", "screen"])
@pytest.mark.parametrize("size", [(48, 64), (64, 48)], ids=["wide", "tall"])
def test_a_pytorch3d_camera_sees_every_point_where_ours_does(in_ndc, size):
    theirs = stand_in(in_ndc)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-60, 60, (100, 3)))
    for sdd in (1000.0, 1.0):
        camera_from_world, camera = camera_from_pytorch3d(theirs, size, sdd)
        ours = camera.project(camera_from_world, points)
        torch.testing.assert_close(ours + 0.5, theirs.screen(points, *size), atol=1e-6, rtol=0)
    assert float((camera_from_world[:, :3, :3].det() - 1).abs().max()) < 1e-9  # flips in pairs: no mirror


def test_a_pytorch3d_camera_stands_for_pose_and_camera():
    theirs = stand_in(in_ndc=False, count=3)
    camera_from_world, camera = camera_from_pytorch3d(theirs)
    assert (camera.height, camera.width) == (48, 64)
    expected = render_mesh(bone(), camera_from_world, camera)
    assert float(expected.max()) > 40
    assert torch.equal(render_mesh(bone(), theirs), expected)
    assert torch.equal(render_depths(bone(), theirs)[0], render_depths(bone(), camera_from_world, camera)[0])
    vertices, faces = tensors(bone())
    single = vertices.float().expand(3, -1, -1)
    assert render_mesh(single, faces, theirs).dtype == torch.float32


def test_gradients_reach_the_fields_of_a_pytorch3d_camera():
    theirs = stand_in(in_ndc=True, count=1)
    fields = [f.clone().requires_grad_() for f in (theirs.R, theirs.T, theirs.focal, theirs.centre)]
    theirs.R, theirs.T, theirs.focal, theirs.centre = fields
    render_mesh(bone(), theirs).square().mean().backward()
    for field in fields:
        assert torch.isfinite(field.grad).all() and float(field.grad.abs().max()) > 0


def test_a_camera_that_is_no_x_ray_camera_is_an_error_that_says_why():
    with pytest.raises(ValueError, match=r"do not know the image's size.*image_size=\(height, width\)"):
        render_mesh(bone(), stand_in(in_ndc=True, image_size=None))
    focal = torch.tensor([[480.0, 480.0], [500.0, 500.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="different focal lengths"):
        camera_from_pytorch3d(stand_in(in_ndc=False, focal=focal))
    with pytest.raises(ValueError, match="images of different sizes"):
        camera_from_pytorch3d(stand_in(in_ndc=False, image_size=torch.tensor([[48, 64], [64, 48]])))
    flat = stand_in(in_ndc=True)
    flat.is_perspective = lambda: False
    with pytest.raises(ValueError, match="no centre of projection"):
        camera_from_pytorch3d(flat)
    with pytest.raises(ValueError, match="expected camera_from_world"):
        camera_from_pytorch3d(CAMERA)


class MeshesStandIn:
    """What is asked of PyTorch3D's Meshes."""

    __module__ = "pytorch3d.standin"

    def __init__(self, vertices: list, faces: list):
        self.vertices, self.faces = vertices, faces

    def verts_list(self):
        return self.vertices

    def faces_list(self):
        return self.faces

    def verts_padded(self):
        return torch.stack(self.vertices)


def test_a_batch_of_meshes_with_the_same_faces_is_rendered_pose_by_pose():
    vertices, faces = tensors(bone())
    meshes = MeshesStandIn([vertices, 0.8 * vertices], [faces, faces])
    expected = render_mesh(torch.stack([vertices, 0.8 * vertices]), faces, poses(2), CAMERA)
    assert torch.equal(render_mesh(meshes, poses(2), CAMERA), expected)
    # one pose, or one mesh, serves all of the other
    assert render_mesh(meshes, poses(1), CAMERA).shape[0] == 2
    assert torch.equal(
        render_mesh(MeshesStandIn([vertices], [faces]), poses(2), CAMERA),
        render_mesh(bone(), poses(2), CAMERA),
    )
    assert float(mesh.volume(MeshesStandIn([vertices], [faces]))) == pytest.approx(bone().volume)


def test_meshes_with_different_faces_are_an_error():
    vertices, faces = tensors(bone())
    for other in ([vertices, vertices], [faces, faces.flip(1)]), ([vertices, vertices[:-1]], [faces, faces]):
        with pytest.raises(ValueError, match="do not have the same faces; render them one by one"):
            mesh_arrays(MeshesStandIn(*other))
    with pytest.raises(ValueError, match="area takes one mesh, got a batch of 2"):
        mesh.area(MeshesStandIn([vertices, vertices], [faces, faces]))


# ---- PyTorch3D itself


@pytest.fixture(scope="module")
def pytorch3d():
    return pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed (its wheels lag behind torch)")


def their_cameras(kind: str):
    """(cameras, image size) of each class, seen from in front of the patient."""
    from pytorch3d.renderer import FoVPerspectiveCameras, PerspectiveCameras, look_at_view_transform

    R, T = look_at_view_transform(
        dist=700.0, elev=torch.tensor([10.0, -35.0]), azim=torch.tensor([20.0, 130.0])
    )
    if kind == "fov":
        return FoVPerspectiveCameras(fov=12.0, R=R, T=T, znear=10.0, zfar=2000.0), (90, 120)
    if kind == "ndc":
        return PerspectiveCameras(9.0, ((0.1, -0.05),), R=R, T=T), (120, 90)
    size = ((90, 120),) * 2
    return PerspectiveCameras(
        ((440.0, 440.0),), ((66.5, 41.25),), R=R, T=T, in_ndc=False, image_size=size
    ), None  # fmt: skip


KINDS = ["fov", "ndc", "screen"]


@pytest.mark.parametrize("kind", KINDS)
def test_points_project_to_the_same_pixels_in_pytorch3d(pytorch3d, kind):
    cameras, size = their_cameras(kind)
    pose, camera = camera_from_pytorch3d(cameras, size)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-60, 60, (200, 3)))
    ours = camera.project(pose.double(), points)
    single = cameras.transform_points_screen(points.float(), image_size=((camera.height, camera.width),))
    torch.testing.assert_close((ours + 0.5).float(), single[..., :2], atol=1e-3, rtol=0)
    # its matrices in float64: what is left is arithmetic, not rounding
    from pytorch3d.renderer.cameras import get_ndc_to_screen_transform

    size = ((camera.height, camera.width),)
    steps = [cameras.get_world_to_view_transform(), cameras.get_projection_transform()]
    if not cameras.in_ndc():
        steps.append(cameras.get_ndc_camera_transform())
    steps.append(get_ndc_to_screen_transform(cameras, with_xyflip=True, image_size=size))
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1).expand(2, -1, -1)
    for step in steps:
        homogeneous = homogeneous @ step.get_matrix().double()
    there = homogeneous[..., :2] / homogeneous[..., 3:]
    # in screen space it goes to NDC and back by matrices that it rounds to float32
    tolerance = 2e-5 if kind == "screen" else 1e-6
    torch.testing.assert_close(ours + 0.5, there, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch3d_rasterises_what_is_rendered_here(pytorch3d, kind):
    from pytorch3d.renderer import MeshRasterizer, RasterizationSettings
    from pytorch3d.structures import Meshes

    cameras, size = their_cameras(kind)
    pose, camera = camera_from_pytorch3d(cameras, size)
    vertices, faces = tensors(bone())
    meshes = Meshes([vertices.float()] * 2, [faces] * 2)
    settings = RasterizationSettings((camera.height, camera.width), blur_radius=0.0, faces_per_pixel=2)
    hits = MeshRasterizer(cameras, settings)(meshes).zbuf
    both = hits[..., 1] > 0
    near, far = hits[..., 0], hits[..., 1]
    if size is None:
        entry, exit_ = render_depths(meshes, cameras)
        path = render_mesh(meshes, cameras)
    else:
        entry, exit_ = render_depths(meshes, pose, camera)
        path = render_mesh(meshes, pose, camera)
    ours = path[:, 0] > 0
    assert 0.1 < float(ours.float().mean()) < 0.9
    differ = ours != both  # a pixel centre within rounding of the outline may
    depth = (entry[:, 0] - near).abs()[ours & both].max(), (exit_[:, 0] - far).abs()[ours & both].max()
    length = (path[:, 0] - (far - near) * ray_lengths(camera)).abs()[ours & both].max()
    print(
        f"{kind}: depth {max(depth):.2e} mm, path {length:.2e} mm, {float(differ.float().mean()):.2e} differ"
    )
    assert max(depth) < 0.05 and length < 0.1  # mm; it works in float32
    assert float(differ.float().mean()) < 5e-4


def test_a_camera_comes_back_from_pytorch3d(pytorch3d):
    pose = poses(2)
    theirs = pytorch3d_from_camera(pose, CAMERA)
    back, camera = camera_from_pytorch3d(theirs, sdd=CAMERA.sdd)
    torch.testing.assert_close(back.double(), pose, atol=1e-4, rtol=0)
    for name in ("delx", "dely", "x0", "y0"):
        assert float(getattr(camera, name)) == pytest.approx(getattr(CAMERA, name), abs=1e-4)
    assert (camera.height, camera.width) == (CAMERA.height, CAMERA.width)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-60, 60, (50, 3)))
    there = theirs.transform_points_screen(points.float())[..., :2]
    torch.testing.assert_close(there.double(), CAMERA.project(pose, points) + 0.5, atol=1e-3, rtol=0)


def test_gradients_reach_pytorch3d_parameters(pytorch3d):
    from pytorch3d.renderer import PerspectiveCameras
    from pytorch3d.structures import Meshes

    cameras, _ = their_cameras("screen")
    vertices = tensors(bone())[0].float().requires_grad_()
    R, T = cameras.R[:1].clone().requires_grad_(), cameras.T[:1].clone().requires_grad_()
    focal = torch.tensor([[440.0, 440.0]], requires_grad=True)
    one = PerspectiveCameras(focal, ((60.0, 45.0),), R=R, T=T, in_ndc=False, image_size=((90, 120),))
    render_mesh(Meshes([vertices], [tensors(bone())[1]]), one).square().mean().backward()
    for field in (vertices, R, T, focal):
        assert torch.isfinite(field.grad).all() and float(field.grad.abs().max()) > 0
    assert math.isfinite(float(focal.grad.sum()))
