import gc
import os
from pathlib import Path

import numba
import pytest
import torch
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

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

# Workers of pytest-xdist share the cores, and so do the processes that their tests start.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = min(2, max(1, (os.cpu_count() or 1) // WORKERS))
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that waits leaves its core to the other worker
torch.set_num_threads(THREADS)
numba.set_num_threads(min(THREADS, numba.config.NUMBA_NUM_THREADS))
threadpool_limits(THREADS)


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays; looking for garbage in it would take longer than many a test


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real pelvises and fluoroscopy, where this machine has them."""
    place = Path(os.environ.get("SHAPEFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (place / "vsd").is_dir():
        pytest.skip(f"real data not found at {place}; set SHAPEFIT_DATA")
    return place
