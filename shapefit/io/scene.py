"""Scene networks as files: safetensors, weights, the template's mesh, and JSON that says what they are.

One key of metadata, `shapefit`: JSON with schema, channels, residual_units, pixels, structures, and `about`
(versions, training settings, source, licence). Several keys would stand in an arbitrary order, and the same
network would have other bytes each time. Nothing in the file can run: no pickle.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shapefit.io.atomic import atomic_path
from shapefit.scene.network import SceneNetwork

SCHEMA = "shapefit-scene/1"
KEY, SUFFIX = "shapefit", ".safetensors"


def scene_path(path_or_name: str | Path) -> Path:
    """The file of a network given by path, or by its name in `models/` (repository or installed package).

    Raises ValueError naming the networks there are.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parents[1]
    known: dict[str, Path] = {}
    for folder in (package / "models", package.parent / "models", Path("models")):
        for file in sorted(folder.glob(f"*/*{SUFFIX}")) if folder.is_dir() else []:
            if file.stem == file.parent.name:
                known.setdefault(file.stem, file)
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    names = ", ".join(known) or "none installed"
    raise ValueError(f"{path_or_name}: no such file of a scene network, nor the name of one ({names})")


def write_scene(path: str | Path, network: SceneNetwork) -> None:
    """Write a scene network, whole or not at all. The same network is the same bytes.

    Raises ValueError for a name that does not end in .safetensors, and weights that are not finite.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(
            f"a scene network is written as {SUFFIX}, not {path.suffix or 'without a suffix'}: {path}"
        )
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(
            f"{path}: {len(bad)} of the network's weights are NaN or infinite, {bad[0]} among them"
        )
    head = {
        "schema": SCHEMA,
        "shapefit": version("shapefit"),
        "pixels": network.pixels,
        "channels": network.channels,
        "residual_units": network.residual_units,
        "structures": network.structures,
        "units": "mm",
        "about": network.about,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {KEY: json.dumps(head)})


def read_scene(path_or_name: str | Path) -> SceneNetwork:
    """Read a scene network by path or by name (`pelvis-scene`), on the CPU, ready to look.

    Raises ValueError that says what is wrong with a file that is absent, cut off, of another version, not a
    scene network, or whose weights do not fit what its head says.
    """
    path = scene_path(path_or_name)
    try:
        with safe_open(path, framework="pt") as file:
            head = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is cut off, damaged or not a safetensors file ({error})") from None
    if head is None:
        raise ValueError(f"{path} is not a scene network: its head has no {KEY!r}")
    content = json.loads(head)
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is a {content.get('schema')!r} file; this version reads {SCHEMA!r}")
    try:
        network = SceneNetwork(
            tensors["template"],
            tensors["faces"],
            content["structures"],
            content["pixels"],
            content["channels"],
            content["residual_units"],
            content["about"],
        )
        network.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: the weights are not those of the network in its head ({error})") from None
    return network.eval()
