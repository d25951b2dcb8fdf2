"""The house's floors: a module imports from its own floor and from those below, and never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "shapefit"
FLOORS = [
    {
        "_closest_numba",
        "_pairs_numba",
        "workers",
        "pca",
        "gaussian",
        "se3",
        "mesh",
        "materials",
        "grid",
        "hounsfield",
        "spectra",
        "losses",
        "settings",
    }
    | {"camera", "interop"}  # foreign meshes and cameras: `mesh` takes them
    | {"holes", "orientation", "repair"}
    | {"anatomy", "topology"},
    {"view", "volume", "surface", "shape_model", "landmarks", "metrics"}
    | {"residual", "calibration", "mode_count"}  # what left-out shapes tell of a model
    | {"alignment", "image_metrics", "registration_metrics", "surface_distance"}  # the parts of metrics
    | {"inspection", "inspection_flags"}
    | {"pairs", "registration", "remesh"},  # the parts of correspondence
    {"render", "correspondence", "io"}
    | {"bones", "template"}
    | {"scene.coordinates", "scene.network", "scene.unet"},  # what `io.scene` reads
    {"fit", "scene", "report", "jobs"}
    | {"correspondence_quality", "landmark_transfer"}
    | {"build", "model_card", "model_quality", "quality_bands"},
    {"cli"},
]
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
# `Volume.from_file` is a front door: what it leads to is imported when it is called
DOORS = {("shapefit.volume", "shapefit.io.volume")}
DISK_FORMATS = {"h5py", "nibabel", "nrrd", "pydicom", "tifffile"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, anywhere in it."""
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            named = {f"{origin}.{alias.name}" for alias in node.names}
            found |= (named & set(MODULES)) or {origin}
    return {name for name in found if (module_name(path), name) not in DOORS}


def floor(module: str) -> int:
    name = module.split(".")[1]
    inside = ".".join(module.split(".")[1:3])
    floors = [n for n, names in enumerate(FLOORS) if name in names or inside in names]
    assert floors, f"shapefit/{name} has no floor yet: say in tests/test_import_rules.py where it belongs"
    return floors[0]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down_only(path):
    own = floor(module_name(path))
    for imported in imports(path):
        if imported.startswith("shapefit."):
            assert floor(imported) <= own, f"{module_name(path)} must not import {imported}"
        # the package's front door leads everywhere: inside, modules are named
        assert imported != "shapefit", f"{module_name(path)} imports from the package as a whole"


def test_no_module_imports_itself_through_others():
    graph = {name: imports(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_disk_formats_are_known_to_io_alone():
    for name, path in MODULES.items():
        libraries = {imported.split(".")[0] for imported in imports(path)}
        if libraries & DISK_FORMATS:
            assert name.startswith("shapefit.io"), f"{name} imports {libraries & DISK_FORMATS}"


def test_a_file_has_one_job_and_stays_short():
    # a file that meets this limit has a second job to give away
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 300}
    assert not long, f"over 300 lines: {long}"
