import math
from dataclasses import replace

import pytest
import torch

from shapefit import se3
from shapefit.camera import Camera, world_from_view
from shapefit.hounsfield import cortical_bone_hu
from shapefit.materials import attenuation_coefficient
from shapefit.render import (
    Detector,
    Exposure,
    ct_paths,
    detector_blur,
    render_radiograph,
    render_volume,
    simulate_radiograph,
)
from shapefit.spectra import Spectrum, spectrum
from shapefit.volume import Volume

CAMERA = Camera(1020.0, 6.0, 6.0, 0.0, 0.0, 24, 26)
WIDE = replace(CAMERA, height=64, width=64)  # air beside the plate, and beside a body
POSE = world_from_view("ap", torch.zeros(3, dtype=torch.float64), 700.0)
VIEW = se3.inverse(POSE)[None]
ONE = Spectrum((60.0,))
TUBE = spectrum(80.0)


def block(hu: float, thick: int = 30) -> Volume:
    """A plate of even HU, 100 mm wide and high, `thick` mm along the beam, in air."""
    data = torch.full((60, thick + 10, 60), -1000.0)
    data[5:55, 5 : thick + 5, 5:55] = hu
    affine = torch.diag(torch.tensor([2.0, 1.0, 2.0, 1.0]).double())
    affine[:3, 3] = -torch.tensor([59.0, (thick + 9) / 2, 59.0])
    return Volume(data, affine)


def middle(image: torch.Tensor) -> float:
    """What the ray nearest the principal one shows; it is within 1e-5 of parallel to it."""
    return float(image[0, 0, 11, 12])


def test_one_energy_is_beer_lambert_in_the_attenuation_of_the_ct():
    torch.manual_seed(0)
    data = 1500 * torch.rand(12, 12, 12) - 800
    ct = Volume(data, torch.diag(torch.tensor([8.0, 8.0, 8.0, 1.0]).double()) + shifted(-44.0))
    line = render_volume(ct.attenuation(60.0), VIEW, CAMERA)
    picture = render_radiograph(ct, VIEW, CAMERA, ONE)
    assert picture.shape == (1, 1, 24, 26) and float(line.max()) > 1
    assert torch.allclose(picture, torch.exp(-line), rtol=1e-5)


def shifted(mm: float) -> torch.Tensor:
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[:3, 3] = mm
    return matrix


@pytest.mark.parametrize(("hu", "material"), [(0.0, "water"), (None, "cortical bone")])
def test_a_plate_of_one_matter_is_its_law_at_every_energy(hu, material):
    ct = block(cortical_bone_hu() if hu is None else hu)
    for energy in (30.0, 60.0, 120.0):
        through = middle(render_radiograph(ct, VIEW, CAMERA, Spectrum((energy,)), method="siddon"))
        assert -math.log(through) == pytest.approx(30 * attenuation_coefficient(material, energy), rel=2e-4)


@pytest.mark.parametrize("hu", [0.0, 800.0])
def test_a_beam_hardens(hu):
    """The second half takes away less than the first, with a spectrum and only with one."""

    def line(thick: int, beam: Spectrum) -> float:
        counting = Detector(counting=True)
        picture = render_radiograph(block(hu, thick), VIEW, CAMERA, beam, counting, method="siddon")
        return -math.log(middle(picture))

    assert line(60, ONE) == pytest.approx(2 * line(30, ONE), rel=1e-3)
    assert line(60, TUBE) < 0.97 * 2 * line(30, TUBE)


def test_a_harder_beam_shows_less_of_bone_against_water():
    def contrast(kv: float) -> float:
        bone, water = (
            -math.log(middle(render_radiograph(block(hu), VIEW, CAMERA, spectrum(kv)))) for hu in (800.0, 0.0)
        )
        return bone / water

    assert contrast(60.0) > 1.15 * contrast(120.0)


def test_paths_are_millimetres_of_water_and_of_bone():
    water, bone = ct_paths(block(0.4 * cortical_bone_hu()), VIEW, CAMERA, method="siddon")[0, :, 11, 12]
    assert (float(water), float(bone)) == pytest.approx((18.0, 12.0), rel=2e-4)
    water, bone = ct_paths(block(100.0), VIEW, CAMERA, threshold=150.0)[0]
    assert float(water.abs().max()) == float(bone.abs().max()) == 0


def test_blur_and_noise_come_after_the_law():
    detector = Detector(blur=9.0)
    sharp, blurred = (render_radiograph(block(0.0), VIEW, CAMERA, TUBE, d) for d in (Detector(), detector))
    assert torch.allclose(blurred, detector_blur(sharp, 9.0, CAMERA))
    noisy = render_radiograph(block(0.0), VIEW, CAMERA, TUBE, photons=1e4, generator=seeded())
    assert float((noisy - sharp).std()) == pytest.approx(float(sharp.mean() / 1e4) ** 0.5, rel=0.2)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_picture_has_a_gradient_in_the_pose():
    twist = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    ct = block(300.0)
    picture = render_radiograph(ct, se3.exp(twist) @ VIEW, CAMERA, ONE)
    picture[..., :13].sum().backward()
    step = torch.tensor([[0.0, 0.0, 0.0, 1e-2, 0.0, 0.0]], dtype=torch.float64)
    ends = [
        float(render_radiograph(ct, se3.exp(sign * step) @ VIEW, CAMERA, ONE)[..., :13].double().sum())
        for sign in (1, -1)
    ]
    assert float(twist.grad[0, 3]) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.02)


def test_what_lies_beside_the_ct_is_the_open_beam():
    picture = render_radiograph(block(0.0), VIEW, WIDE, ONE)[0, 0]
    assert float(picture[0, 0]) == 1 and float(picture[32, 32]) < 0.6


def test_structures_make_no_difference():
    ct = block(200.0)
    named = replace(ct, structure=(ct.data < 0).to(torch.uint8), names=("plate", "rest"))
    paths = [render_radiograph(v, VIEW, CAMERA, ONE) for v in (ct, named)]
    assert torch.equal(*paths)


def test_a_simulated_view_is_bone_dark_noisy_and_repeatable():
    ct = block(500.0)
    one, same, other = (simulate_radiograph(ct, POSE, CAMERA, seed) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image) and not torch.equal(one.image, other.image)
    assert float(one.image.min()) >= 0 and float(one.image.max()) <= 1
    assert float(one.image[10:13, 11:14].mean()) < float(one.image[10:13, :2].mean())
    assert torch.equal(one.world_from_camera, POSE) and one.camera is CAMERA


def test_a_simulated_view_shows_the_radiograph_through_a_display():
    clean = Exposure(TUBE, photons=0.0, blur=0.0, gamma=(1.0, 1.0))
    shown = simulate_radiograph(block(-600.0, 60), POSE, CAMERA, 0, clean).image
    through = render_radiograph(block(-600.0, 60), VIEW, CAMERA, TUBE)[0, 0]
    dark = shown < 0.999  # the display saturates air
    gain = shown[dark] / through[dark]
    assert dark.sum() > 100 and torch.allclose(gain, gain.mean().expand_as(gain), rtol=1e-4)


def test_bones_alone_can_be_put_into_a_body():
    clean = Exposure(photons=0.0, blur=0.0, gamma=(1.0, 1.0), gas=0)
    ct = block(500.0)
    bare, dressed = (
        simulate_radiograph(ct, POSE, WIDE, 0, clean, threshold=150.0, body=inside).image
        for inside in (False, True)
    )
    # beside the plate: open beam without a body, tissue with one; far away: open beam in both
    beside, far = (32, 45), (1, 1)
    assert bare[beside] == bare[far] and dressed[beside] < dressed[far]
    assert not torch.equal(
        *(
            simulate_radiograph(ct, POSE, CAMERA, 0, replace(clean, gas=n), threshold=150.0, body=True).image
            for n in (0, 6)
        )
    )


def test_an_x_ray_that_misses_the_ct_is_an_error_not_a_white_picture():
    away = world_from_view("ap", torch.tensor([500.0, 0.0, 0.0]).double(), 700.0)
    with pytest.raises(ValueError, match="the X-ray misses the CT: no ray meets matter"):
        simulate_radiograph(block(0.0), away, CAMERA, 0)
    with pytest.raises(ValueError, match="check the pose and the threshold"):
        simulate_radiograph(block(0.0), POSE, CAMERA, 0, threshold=100.0)


def test_the_body_is_where_there_is_no_bone():
    clean = Exposure(ONE, photons=0.0, blur=0.0, gamma=(1.0, 1.0), gas=0)
    shown = simulate_radiograph(block(500.0), POSE, WIDE, 0, clean, threshold=150.0, body=True).image
    line = -math.log(float(shown[32, 32] / shown[1, 1]))
    plate = 30 * float(block(500.0).attenuation(60.0).data.max())
    body = 1.45 * 31  # the plate's box with a margin of a voxel, corner to corner of voxels' centres
    tissue = attenuation_coefficient("soft tissue", 60.0)
    assert line == pytest.approx(plate + (body - 30) * tissue, rel=0.02)
    assert line < 0.8 * (plate + body * tissue)
