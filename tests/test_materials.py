import numpy as np
import pytest

from shapefit.materials import (
    EDGES,
    ENERGIES,
    HIGHEST,
    LOWEST,
    MASS_ATTENUATION,
    MATERIALS,
    attenuation_coefficient,
    mass_attenuation,
)

# Shares by weight of the elements: NIST SRD 126, table 2, which takes the tissues from ICRU Report 44;
# skeletal spongiosa after ICRU Report 44
COMPOSITION = {
    "cortical bone": {"H": 3.4, "C": 15.5, "N": 4.2, "O": 43.5, "Na": 0.1, "Mg": 0.2, "P": 10.3, "S": 0.3,
                      "Ca": 22.5},
    "trabecular bone": {"H": 8.5, "C": 40.4, "N": 2.8, "O": 36.7, "Na": 0.1, "Mg": 0.1, "P": 3.4, "S": 0.2,
                        "Cl": 0.2, "K": 0.1, "Ca": 7.4, "Fe": 0.1},
    "soft tissue": {"H": 10.2, "C": 14.3, "N": 3.4, "O": 70.8, "Na": 0.2, "P": 0.3, "S": 0.3, "Cl": 0.2,
                    "K": 0.3},
    "muscle": {"H": 10.2, "C": 14.3, "N": 3.4, "O": 71.0, "Na": 0.1, "P": 0.2, "S": 0.3, "Cl": 0.1, "K": 0.4},
    "adipose": {"H": 11.4, "C": 59.8, "N": 0.7, "O": 27.8, "Na": 0.1, "S": 0.1, "Cl": 0.1},
    "blood": {"H": 10.2, "C": 11.0, "N": 3.3, "O": 74.5, "Na": 0.1, "P": 0.1, "S": 0.2, "Cl": 0.3, "K": 0.2,
              "Fe": 0.1},
    "water": {"H": 11.1898, "O": 88.8102},
    "air": {"C": 0.0124, "N": 75.5268, "O": 23.1781, "Ar": 1.2827},
    "aluminium": {"Al": 100}, "titanium": {"Ti": 100}, "iron": {"Fe": 100}, "copper": {"Cu": 100},
    "caesium iodide": {"I": 48.8451, "Cs": 51.1549},
}  # fmt: skip


@pytest.mark.parametrize("material", MATERIALS)
def test_tables_agree_with_xraylib_by_composition(material):
    # the largest difference measured is 0.30 % (2.1 % for trabecular bone, which is a mixture, and 1.1 % for
    # copper at 11.5 keV, near its K edge). xraylib's coefficients, too, go back to NIST's: what this finds is
    # a wrong number, a wrong composition, or interpolation that is too coarse
    xraylib = pytest.importorskip("xraylib", reason="xraylib, which has coefficients of its own, is missing")
    tolerance = {"trabecular bone": 0.022, "copper": 0.012}.get(material, 0.0035)
    parts = {
        xraylib.SymbolToAtomicNumber(symbol): share / 100 for symbol, share in COMPOSITION[material].items()
    }
    assert sum(parts.values()) == pytest.approx(1, abs=1e-6)
    energies = np.arange(LOWEST, HIGHEST + 0.1, 0.25)
    for edge, _, _ in EDGES.get(material, ()):  # where exactly a coefficient jumps is rounded differently
        energies = energies[abs(energies - edge) > 0.02]
    expected = [sum(share * xraylib.CS_Total(z, e) for z, share in parts.items()) for e in energies.tolist()]
    ratio = mass_attenuation(material, energies) / np.array(expected)
    assert abs(ratio - 1).max() < tolerance


@pytest.mark.parametrize("material", MASS_ATTENUATION)
def test_coefficients_pass_through_the_published_values(material):
    inside = [n for n, energy in enumerate(ENERGIES) if energy <= HIGHEST]
    found = mass_attenuation(material, np.array(ENERGIES)[inside])
    assert np.allclose(found, np.array(MASS_ATTENUATION[material])[inside], rtol=1e-12)
    for edge, below, above in EDGES.get(material, ()):
        assert mass_attenuation(material, edge) == pytest.approx(above)
        assert mass_attenuation(material, np.nextafter(edge, 0)) == pytest.approx(below)


def test_a_linear_coefficient_is_per_millimetre():
    assert attenuation_coefficient("cortical bone", 60.0) == pytest.approx(0.3148 * 1.92 / 10)
    assert attenuation_coefficient("water", 100.0) == pytest.approx(0.01707)


def test_bone_attenuates_more_than_tissue_and_less_at_higher_energy():
    energies = np.arange(LOWEST, HIGHEST)
    order = ["iron", "titanium", "cortical bone", "trabecular bone", "muscle", "adipose", "air"]
    table = np.array([attenuation_coefficient(material, energies) for material in order])
    assert (np.diff(table, axis=0) < 0).all() and (np.diff(table, axis=1) < 0).all()


def test_one_energy_and_several_agree():
    for material in MATERIALS:
        several = attenuation_coefficient(material, np.array([[20.0, 34.0], [36.5, 80.0]]))
        assert several.shape == (2, 2)
        assert several[0, 1] == attenuation_coefficient(material, 34.0)
        assert isinstance(attenuation_coefficient(material, 34.0), float)


def test_an_unknown_material_or_energy_is_refused():
    with pytest.raises(ValueError, match="unknown material 'lead'; expected one of cortical bone"):
        attenuation_coefficient("lead", 60.0)
    for energy in (9.0, 151.0, float("nan")):
        with pytest.raises(ValueError, match="outside the tables: 10 to 150 keV"):
            attenuation_coefficient("trabecular bone", energy)
