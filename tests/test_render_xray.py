import math

import numpy as np
import pytest
import torch
import trimesh

from shapefit.camera import Camera, world_from_view
from shapefit.materials import attenuation_coefficient
from shapefit.render.signal import Detector, detector_blur, detector_signal, poisson_noise
from shapefit.render.xray import Bone, material_paths, render_xray, shell_and_interior
from shapefit.se3 import exp, inverse
from shapefit.spectra import Spectrum, spectrum

CAMERA = Camera(1020.0, 3.0, 3.0, 0.0, 0.0, 96, 96)
POSE = inverse(world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0))[None]
MIDDLE = (slice(47, 49), slice(47, 49))


def ball(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    # points lie on the ball: move them outwards until the mesh has the ball's volume
    sphere.vertices *= (4 / 3 * math.pi * radius**3 / sphere.volume) ** (1 / 3)
    return sphere.apply_translation(center)


def scene(*meshes: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    start = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = np.concatenate([mesh.faces + n for mesh, n in zip(meshes, start, strict=False)])
    structure = np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes])
    vertices = np.concatenate([np.asarray(mesh.vertices) for mesh in meshes])
    return torch.from_numpy(vertices)[None], torch.from_numpy(faces), torch.from_numpy(structure)


def paths_of(meshes, materials, within=None) -> dict[str, torch.Tensor]:
    vertices, faces, structure = scene(*meshes)
    paths, names = material_paths(vertices, faces, POSE, CAMERA, structure, materials, within)
    assert float(paths.min()) >= 0
    return dict(zip(names, paths[0], strict=True))


def middle(image: torch.Tensor) -> float:
    return float(image[MIDDLE].mean())


def test_the_shell_of_a_ball_has_the_path_of_two_concentric_balls():
    vertices, faces, _ = scene(ball(50.0))
    outer, inner = shell_and_interior(vertices, faces, POSE, CAMERA, 5.0)
    assert middle(outer[0, 0]) == pytest.approx(100, abs=0.3)
    assert middle(outer[0, 0] - inner[0, 0]) == pytest.approx(10, abs=0.1)


def test_a_bone_is_two_materials_that_fill_it():
    found = paths_of([ball(50.0)], [Bone(5.0)])
    whole = paths_of([ball(50.0)], ["muscle"])["muscle"]
    assert middle(found["cortical bone"]) == pytest.approx(10, abs=0.1)
    assert torch.allclose(found["cortical bone"] + found["trabecular bone"], whole)
    assert torch.allclose(paths_of([ball(50.0)], [Bone(0.0)])["trabecular bone"], whole)
    assert torch.allclose(paths_of([ball(50.0)], [Bone(5.0, "iron", "iron")])["iron"], whole)


def test_a_bone_thinner_than_its_shells_is_cortex_alone():
    plate = trimesh.creation.box((40.0, 1.5, 40.0)).subdivide().subdivide().subdivide()
    found = paths_of([plate], [Bone(1.6)])
    assert middle(found["cortical bone"]) == pytest.approx(1.5, abs=0.01)
    assert middle(found["trabecular bone"]) == 0


def test_inner_matter_takes_the_place_of_outer_matter():
    meshes = [
        ball(20.0, (30.0, 0.0, 0.0)),
        ball(80.0),
        ball(10.0, (-40.0, 10.0, 5.0)),
        ball(4.0, (30.0, 0.0, 0.0)),
    ]
    found = paths_of(meshes, [Bone(2.0), "soft tissue", "air", "titanium"], [1, -1, 1, 0])
    total = torch.stack(list(found.values())).sum(0)
    assert torch.allclose(total, paths_of([meshes[1]], ["water"])["water"])
    assert set(found) == {"cortical bone", "trabecular bone", "soft tissue", "air", "titanium"}
    # through the middle of the bone: 4 mm of cortex, 40 - 4 - 8 of interior, 8 of metal
    column = round(47.5 - 30.0 * 1020 / 700 / 3)  # seen from the front, the patient's right is on the left
    row = {name: float(image[47:49, column - 1 : column + 2].amax()) for name, image in found.items()}
    assert row["titanium"] == pytest.approx(8, abs=0.4)
    assert row["trabecular bone"] >= 28 - 0.5


def test_what_lies_in_a_bone_displaces_its_interior_first():
    bone, screw = ball(30.0), trimesh.creation.box((6.0, 80.0, 6.0))
    found = paths_of([bone, screw], [Bone(3.0), "titanium"], [-1, 0])
    assert middle(found["trabecular bone"]) == 0 and middle(found["cortical bone"]) == 0
    pin = trimesh.creation.box((6.0, 40.0, 6.0))
    found = paths_of([bone, pin], [Bone(3.0), "titanium"], [-1, 0])
    assert middle(found["cortical bone"]) == pytest.approx(6, abs=0.1)
    assert middle(found["trabecular bone"]) == pytest.approx(60 - 6 - 40, abs=0.3)


def test_structures_that_overlap_without_nesting_both_count_in_full():
    alone = paths_of([ball(30.0)], ["muscle"])["muscle"]
    found = paths_of([ball(30.0), ball(30.0), ball(20.0)], ["muscle", "muscle", "water"])
    assert torch.allclose(found["muscle"], 2 * alone)
    assert middle(found["water"]) == pytest.approx(40, abs=0.3)


def test_a_structure_that_reaches_out_of_another_leaves_no_negative_path():
    found = paths_of([ball(30.0, (60.0, 0.0, 0.0)), ball(50.0)], ["cortical bone", "muscle"], [1, -1])
    assert float(found["muscle"].min()) == 0 and float(found["muscle"].max()) > 90


@pytest.mark.parametrize("beam", [Spectrum((60.0,)), spectrum(80.0)], ids=["one energy", "80 kV"])
def test_a_picture_of_balls_in_balls_is_what_beer_and_lambert_say(beam):
    vertices, faces, structure = scene(ball(40.0), ball(90.0))
    picture = render_xray(vertices, faces, POSE, CAMERA, structure, [Bone(2.0), "soft tissue"], beam, [1, -1])
    lengths = {"cortical bone": 4.0, "trabecular bone": 76.0, "soft tissue": 100.0}
    response = Detector().response(np.array(beam.energies)) * np.array(beam.weights)
    line = sum(
        length * attenuation_coefficient(name, np.array(beam.energies)) for name, length in lengths.items()
    )
    expected = float(response @ np.exp(-line) / response.sum())
    assert picture.shape == (1, 1, 96, 96)
    assert middle(picture[0, 0]) == pytest.approx(expected, rel=0.02)
    assert float(picture[0, 0, 0, 0]) == pytest.approx(1)


def test_one_call_is_its_parts_in_order():
    vertices, faces, structure = scene(ball(40.0), ball(90.0))
    materials, within, beam = [Bone(), "adipose"], [1, -1], spectrum(70.0)
    paths, names = material_paths(vertices, faces, POSE, CAMERA, structure, materials, within)
    clean = detector_blur(detector_signal(paths, names, beam), 4.0, CAMERA)
    noisy = poisson_noise(clean, 300.0, torch.Generator().manual_seed(5))
    arguments = (vertices, faces, POSE, CAMERA, structure, materials, beam, within, Detector(blur=4.0))
    assert torch.equal(render_xray(*arguments), clean)
    assert torch.equal(render_xray(*arguments, 300.0, torch.Generator().manual_seed(5)), noisy)


def test_a_batch_is_its_pictures_one_by_one():
    vertices, faces, structure = scene(ball(40.0), ball(90.0))
    poses = torch.cat([POSE, exp(torch.tensor([0.1, 0.2, 0.0, 9.0, 5.0, 20.0], dtype=torch.float64)) @ POSE])
    arguments = (CAMERA, structure, [Bone(), "muscle"], spectrum(70.0), [1, -1])
    both = render_xray(torch.cat([vertices, 1.1 * vertices]), faces, poses, *arguments)
    for n, scale in enumerate((1.0, 1.1)):
        assert torch.allclose(
            both[n : n + 1], render_xray(scale * vertices, faces, poses[n : n + 1], *arguments)
        )


def test_the_picture_changes_with_pose_and_shape_as_its_gradient_says():
    vertices, faces, structure = scene(ball(40.0, (3.0, 2.0, 1.0)), ball(90.0))
    weights = torch.rand(1, 1, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = detector_blur(weights, 20.0, CAMERA)

    def brightness(twist: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        picture = render_xray(
            vertices * scale, faces, exp(twist) @ POSE, CAMERA, structure,
            [Bone(2.5), "soft tissue"], spectrum(60.0), [1, -1], Detector(blur=3.0),
        )  # fmt: skip
        return (weights * picture).sum()

    twist = torch.tensor([[0.05, -0.02, 0.1, 4.0, -3.0, 10.0]], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.01, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(brightness(twist, scale), (twist, scale))
    move = torch.tensor([[0.3, -0.2, 0.5, 40.0, 30.0, -60.0]], dtype=torch.float64)
    for step, grow, expected in (
        (move, 0.0, float((gradients[0] * move).sum())),
        (0 * move, 1.0, float(gradients[1])),
    ):
        h = 1e-5
        with torch.no_grad():
            ahead = brightness(twist + h * step, scale + h * grow)
            behind = brightness(twist - h * step, scale - h * grow)
        assert expected == pytest.approx(float(ahead - behind) / (2 * h), rel=0.002)


@pytest.mark.parametrize(
    ("materials", "within", "said"),
    [
        (["muscle"], None, "2 structures need as many materials .* got 1 and 2"),
        (["muscle", "water"], [1], "got 2 and 1"),
        (["muscle", "water"], [2, -1], "from 0 to 1, or is -1; got 2"),
        (["muscle", "water"], [1, 0], "structure 0 lies within itself"),
    ],
)
def test_materials_and_nestings_must_fit_the_structures(materials, within, said):
    with pytest.raises(ValueError, match=said):
        paths_of([ball(10.0), ball(20.0)], materials, within)


def test_an_unknown_material_or_a_negative_shell_is_refused():
    vertices, faces, structure = scene(ball(10.0))
    with pytest.raises(ValueError, match="unknown material 'lead'"):
        render_xray(vertices, faces, POSE, CAMERA, structure, ["lead"], Spectrum((60.0,)))
    with pytest.raises(ValueError, match="0 mm thick or more, got -1"):
        Bone(-1.0)


def test_an_empty_mesh_is_refused():
    vertices, faces, structure = scene(ball(10.0))
    with pytest.raises(ValueError, match="no faces"):
        render_xray(vertices, faces[:0], POSE, CAMERA, structure[:0], [Bone()], Spectrum((60.0,)))
