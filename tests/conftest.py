import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Shape annotations are checked at run time, except in kernels (modules named `_...`).
PUBLIC = [
    f"shapefit.{path.relative_to(root).with_suffix('').as_posix().replace('/', '.')}"
    for root in [Path(__file__).parents[1] / "shapefit"]
    for path in sorted(root.rglob("*.py"))
    if not path.name.startswith("_") and path.parent.name not in ("cli", "settings")
]
install_import_hook(PUBLIC, "beartype.beartype")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # GPU kernels run on the CPU, before Triton is imported

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real pelvises and fluoroscopy, where this machine has them."""
    place = Path(os.environ.get("SHAPEFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (place / "vsd").is_dir():
        pytest.skip(f"real data not found at {place}; set SHAPEFIT_DATA")
    return place
