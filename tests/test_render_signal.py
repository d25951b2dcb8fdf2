import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from shapefit.camera import Camera
from shapefit.materials import attenuation_coefficient
from shapefit.render.signal import PANEL, Detector, attenuation, detector_blur, detector_signal, poisson_noise
from shapefit.spectra import Spectrum, spectrum

CAMERA = Camera(1000.0, 0.5, 0.8, 0.0, 0.0, 24, 31)
MATERIALS = ["soft tissue", "cortical bone"]


def paths(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    longest = torch.tensor([250.0, 40.0], dtype=torch.float64)[:, None, None]
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * longest


def slabs(material: str, thickness: list[float], beam: Spectrum, detector: Detector = PANEL) -> np.ndarray:
    lengths = torch.tensor(thickness, dtype=torch.float64)[None, None, None]
    return detector_signal(lengths, [material], beam, detector)[0, 0, 0].numpy()


def test_attenuation_is_the_sum_over_structures():
    lengths, mu = paths(2, 2, 3, 4), torch.tensor([0.02, 0.05], dtype=torch.float64)
    expected = 0.02 * lengths[:, 0] + 0.05 * lengths[:, 1]
    assert torch.allclose(attenuation(lengths, mu)[:, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_energy_is_exactly_the_exponential_of_the_attenuation(dtype):
    lengths = paths(2, 2, 5, 6).to(dtype)
    mu = torch.tensor([attenuation_coefficient(m, 60.0) for m in MATERIALS], dtype=dtype)
    for detector in (Detector(), Detector(counting=True)):
        signal = detector_signal(lengths, MATERIALS, Spectrum((60.0,), (7.0,)), detector)
        assert signal.dtype == dtype and torch.equal(signal, torch.exp(-attenuation(lengths, mu)))


@pytest.mark.parametrize("detector", [Detector(), Detector(counting=True), Detector(scintillator=0.1)])
def test_the_signal_is_the_sum_over_energies_of_what_the_detector_absorbs(detector):
    beam, lengths = spectrum(80.0), paths(1, 2, 3, 4).numpy()
    total = open_beam = 0.0
    for energy, photons in zip(beam.energies, beam.weights, strict=True):
        tissue, bone, iodide = (attenuation_coefficient(m, energy) for m in (*MATERIALS, "caesium iodide"))
        absorbed = photons * (1 - math.exp(-iodide * detector.scintillator))
        absorbed *= 1 if detector.counting else energy
        total = total + absorbed * np.exp(-tissue * lengths[:, 0] - bone * lengths[:, 1])
        open_beam += absorbed
    found = detector_signal(torch.from_numpy(lengths), MATERIALS, beam, detector)
    np.testing.assert_allclose(found[:, 0].numpy(), total / open_beam, rtol=1e-12)


def test_the_open_beam_is_one():
    for kv in (60.0, 110.0):
        np.testing.assert_allclose(slabs("water", [0.0], spectrum(kv)), 1.0, rtol=1e-14)


@pytest.mark.parametrize("material", ["soft tissue", "cortical bone", "titanium"])
def test_a_beam_hardens_as_it_passes_through_matter(material):
    thickness = np.array([0.1, 1.0, 5.0, 10.0, 30.0, 60.0])
    effective = -np.log(slabs(material, thickness.tolist(), spectrum(90.0))) / thickness
    assert (np.diff(effective) < 0).all()
    # towards the coefficient of the hardest photons, from the mean over the detected ones
    assert effective[-1] > attenuation_coefficient(material, 89.0)
    single = -np.log(slabs(material, thickness.tolist(), Spectrum((60.0,)))) / thickness
    np.testing.assert_allclose(single, attenuation_coefficient(material, 60.0), rtol=1e-9)


def test_a_harder_beam_shows_less_bone():
    contrast = [float(slabs("cortical bone", [10.0], spectrum(kv))[0]) for kv in (60.0, 80.0, 110.0)]
    assert contrast[0] < contrast[1] < contrast[2]
    assert slabs("cortical bone", [10.0], spectrum(80.0, 3.0, 0.2)) > contrast[1]


def test_single_precision_is_enough():
    lengths = paths(1, 2, 20, 20)
    exact = detector_signal(lengths, MATERIALS, spectrum(70.0))
    single = detector_signal(lengths.float(), MATERIALS, spectrum(70.0))
    assert single.dtype == torch.float32
    assert float((single / exact - 1).abs().max()) < 1e-5


def test_autocast_leaves_the_signal_alone():
    lengths = paths(1, 2, 8, 8).float()
    plain = detector_blur(detector_signal(lengths, MATERIALS, spectrum(70.0)), 0.7, CAMERA)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = detector_blur(detector_signal(lengths, MATERIALS, spectrum(70.0)), 0.7, CAMERA)
    assert torch.equal(plain, cast)


def test_the_gradient_of_the_signal_is_its_derivative():
    beam = spectrum(120.0).filtered("copper", 0.2)
    few = Spectrum(beam.energies[5::12], beam.weights[5::12])
    lengths = paths(2, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: detector_signal(x, MATERIALS, few), lengths)
    assert torch.autograd.gradgradcheck(lambda x: detector_signal(x, MATERIALS, few), lengths)


def test_memory_does_not_grow_with_the_number_of_energies():
    def kept(energies: int) -> int:
        lengths, found = paths(1, 2, 64, 64).requires_grad_(), {}

        def note(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        beam = Spectrum(tuple(np.linspace(40.0, 90.0, energies).tolist()), (1.0,) * energies)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            signal = detector_signal(lengths, MATERIALS, beam)
        signal.sum().backward()
        return sum(found.values())

    assert kept(40) < kept(2) + 1e4 < 64 * 64 * 8 * 2 * 2


def test_every_structure_needs_a_known_material():
    with pytest.raises(ValueError, match="2 structures need as many materials, got 1"):
        detector_signal(paths(1, 2, 2, 2), ["muscle"], Spectrum((60.0,)))
    with pytest.raises(ValueError, match="unknown material 'cheese'"):
        detector_signal(paths(1, 2, 2, 2), ["muscle", "cheese"], Spectrum((60.0,)))


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.3, 9.0])
def test_blur_is_a_gaussian_in_mm_on_the_detector(sigma):
    image = torch.rand(2, 1, 24, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = detector_blur(image, sigma, CAMERA)
    for before, after in zip(image[:, 0], found[:, 0], strict=True):
        expected = gaussian_filter(before.numpy(), (sigma / 0.8, sigma / 0.5), mode="reflect", truncate=4.0)
        np.testing.assert_allclose(after.numpy(), expected, atol=1e-12)


def test_blur_leaves_an_even_image_alone_and_keeps_the_mean():
    assert torch.allclose(detector_blur(torch.ones(1, 1, 24, 31), 2.0, CAMERA), torch.ones(1, 1, 24, 31))
    image = torch.rand(1, 1, 24, 31, dtype=torch.float64)
    assert float(detector_blur(image, 3.0, CAMERA).mean()) == pytest.approx(float(image.mean()))
    assert torch.equal(detector_blur(image, 0.0, CAMERA), image)


def test_blur_damps_waves_by_its_modulation_transfer():
    camera = Camera(1000.0, 0.5, 0.5, 0.0, 0.0, 1, 400)
    frequency, sigma = 20 / 200.0, 1.2  # cycles per mm: 20 waves over the image; mm
    wave = torch.cos(2 * math.pi * frequency * 0.5 * (torch.arange(400, dtype=torch.float64) + 0.5))
    found = detector_blur(wave[None, None, None], sigma, camera)[0, 0, 0]
    transfer = math.exp(-2 * (math.pi * frequency * sigma) ** 2)
    assert torch.allclose(found, transfer * wave, atol=1e-4)  # the kernel ends at four widths


def test_the_gradient_of_the_blur_is_its_derivative():
    image = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: detector_blur(x, 0.9, CAMERA), image)


def test_noise_has_the_mean_and_variance_of_counts():
    signal = torch.tensor([0.02, 0.3, 1.0], dtype=torch.float64)[None, None, :, None].expand(1, 1, 3, 40_000)
    noisy = poisson_noise(signal, 500.0, torch.Generator().manual_seed(0))[0, 0]
    assert torch.allclose(noisy.mean(1), signal[0, 0, :, 0], rtol=0.01)
    assert torch.allclose(noisy.var(1), signal[0, 0, :, 0] / 500.0, rtol=0.03)
    assert torch.equal((noisy * 500.0).round() / 500.0, noisy)


def test_noise_repeats_itself_for_a_seed():
    signal = torch.rand(1, 1, 9, 9)
    one, same, other = (poisson_noise(signal, 50.0, torch.Generator().manual_seed(n)) for n in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_blur_and_noise_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="0 mm or more, got -1"):
        detector_blur(torch.ones(1, 1, 3, 3), -1.0, CAMERA)
    with pytest.raises(ValueError, match="positive number of photons per pixel, got 0"):
        poisson_noise(torch.ones(1, 1, 3, 3), 0.0)
