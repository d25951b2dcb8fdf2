import pytest
import torch

from shapefit.hounsfield import attenuation_from_hu, cortical_bone_hu, water_and_bone
from shapefit.materials import attenuation_coefficient
from shapefit.volume import Volume

EYE = torch.eye(4, dtype=torch.float64)
ENERGIES = (20.0, 60.0, 70.0, 140.0)


def mu(hu, *options, **more):
    return attenuation_from_hu(torch.tensor([float(value) for value in hu]), *options, **more).double()


@pytest.mark.parametrize("energy", ENERGIES)
def test_air_is_exactly_nothing_and_water_and_bone_have_their_own_coefficients(energy):
    water, bone = (attenuation_coefficient(m, energy) for m in ("water", "cortical bone"))
    found = mu([-1400, -1000, -500, 0, cortical_bone_hu()], energy)
    assert found[:2].tolist() == [0.0, 0.0]
    expected = torch.tensor([0.5 * water, water, bone], dtype=torch.float64)
    assert torch.allclose(found[2:], expected, rtol=3e-7)
    assert found[3] == torch.tensor(water, dtype=torch.float32)


@pytest.mark.parametrize("effective", [60.0, 70.0, 80.0])
def test_at_the_energy_of_the_ct_hounsfield_units_are_undone_whatever_they_mean(effective):
    hu = torch.linspace(-1000, 30000, 3000)
    expected = attenuation_coefficient("water", effective) * (1 + hu.double() / 1000)
    found = attenuation_from_hu(hu, effective, effective_energy=effective).double()
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
def test_attenuation_grows_with_hu_without_a_jump(energy):
    hu = torch.linspace(-1100, 6000, 71001)
    steps = attenuation_from_hu(hu, energy).double().diff()
    assert (steps >= 0).all() and (steps[2000:] > 0).all()
    assert steps.max() < 1e-3 * attenuation_coefficient("water", energy)  # a tenth of a HU


def test_bone_hardens_less_than_water_at_higher_energies():
    """The reason why an attenuation must not be scaled from one energy to another."""
    soft, hard = mu([0, 1000], 40.0), mu([0, 1000], 120.0)
    assert soft[1] / soft[0] > 2.5 and hard[1] / hard[0] < 1.7


def test_shares_fill_a_voxel_between_water_and_bone():
    hu = torch.linspace(0, cortical_bone_hu(), 100)
    water, bone = water_and_bone(hu)
    assert torch.allclose(water + bone, torch.ones(100))
    assert torch.equal(water_and_bone(torch.tensor([-1000.0, -400.0]))[1], torch.zeros(2))
    beyond = water_and_bone(torch.tensor([4000.0]))
    assert beyond[0] == 0 and beyond[1] > 1
    assert torch.allclose(mu([-300, 700, 4000], 55.0), shares_mu([-300, 700, 4000], 55.0))


def shares_mu(hu, energy):
    water, bone = water_and_bone(torch.tensor([float(value) for value in hu]))
    parts = [(water, "water"), (bone, "cortical bone")]
    return sum(share.double() * attenuation_coefficient(name, energy) for share, name in parts)


def test_a_threshold_makes_air_of_what_is_below_it():
    assert mu([0, 149.9, 150, 800], threshold=150.0).count_nonzero() == 2
    assert mu([-3024, 0, 150], threshold=1.0)[:2].tolist() == [0.0, 0.0]  # padding is below it, too


def test_padding_is_an_error_until_it_is_said_to_be_padding():
    hu = [-3024, -2000, -1000, 0, 300]
    with pytest.raises(ValueError, match=r"2 voxels are below -1500 HU \(down to -3024\).*padding=-2000"):
        mu(hu)
    with pytest.raises(ValueError, match=r"1 voxels are below -1500 HU \(down to -2000\)"):
        mu(hu, padding=-3024.0)
    assert torch.equal(mu(hu, padding=-2000.0)[2:], mu(hu[2:]))
    assert mu(hu, padding=-2000.0)[:2].tolist() == [0.0, 0.0]
    assert mu([-3024, 10], padding=20.0).tolist() == [0.0, 0.0]


def test_what_no_matter_has_is_an_error_that_says_what_arrived():
    with pytest.raises(ValueError, match="values reach 65535, but Hounsfield units end at 32000"):
        mu([0, 65535])
    with pytest.raises(ValueError, match="energy 5 keV is outside the tables"):
        mu([0], 5.0)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8, torch.float16, torch.float64])
def test_hu_of_any_type_give_the_same(dtype):
    hu = torch.tensor([[0, 40], [100, 250]])
    assert torch.equal(attenuation_from_hu(hu.to(dtype)), attenuation_from_hu(hu.float()))


def test_half_precision_is_within_its_rounding():
    hu = torch.linspace(-1000, 3000, 4001)
    half, full = attenuation_from_hu(hu, dtype=torch.float16), attenuation_from_hu(hu)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), full, rtol=2**-11, atol=2**-25)


def test_many_pieces_are_one_volume(monkeypatch):
    import shapefit.grid

    hu = torch.linspace(-1000, 3000, 7 * 5 * 3).reshape(7, 5, 3)
    whole = attenuation_from_hu(hu), *water_and_bone(hu)
    monkeypatch.setattr(shapefit.grid, "PIECE", 30)
    for a, b in zip(whole, (attenuation_from_hu(hu), *water_and_bone(hu)), strict=True):
        assert torch.equal(a, b)


def test_a_volume_keeps_its_place_and_structures():
    structure = torch.zeros(2, 2, 2, dtype=torch.uint8)
    volume = Volume(torch.zeros(2, 2, 2, dtype=torch.int16), 2 * EYE - torch.diag(EYE[3]), structure, ("a",))
    found = volume.attenuation(energy=80.0)
    assert found.names == ("a",) and torch.equal(found.world_from_voxel, volume.world_from_voxel)
    assert torch.equal(found.data, attenuation_from_hu(volume.data, 80.0))


def test_the_real_scans_become_bone_and_bodies(data_dir):
    bone = Volume.from_file(data_dir / "ct" / "pelvis_bone.nii.gz")
    water = attenuation_coefficient("water", 60.0)
    alone = float((bone.attenuation(threshold=150.0).data > 0).float().mean())
    filled = float((bone.attenuation().data > 0.9 * water).float().mean())
    # soft tissue was set to 0 HU there: without a threshold it is water
    assert 0.01 < alone < 0.05 and filled > 0.9
    body = Volume.from_file(data_dir / "ct" / "abdomen_pelvis_hu.nii.gz").attenuation()
    cubic_mm = float(body.data.sum()) * body.voxel_volume / water
    assert 10e6 < cubic_mm < 40e6  # 10 to 40 litres of water in 36 x 30 x 34 cm
