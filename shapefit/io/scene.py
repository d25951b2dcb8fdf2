"""Scene networks as files: safetensors, weights, the template's mesh, and JSON that says what they are.

One key of metadata, `shapefit`: JSON with schema, channels, residual_units, pixels, structures, and `about`
(versions, training settings, source, licence). Several keys would stand in an arbitrary order, and the same
network would have other bytes each time. Nothing in the file can run: no pickle.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shapefit.io.atomic import atomic_path
from shapefit.io.shipped import shipped_file
from shapefit.scene.network import SceneNetwork

SCHEMA = "shapefit-scene/1"
KEY, SUFFIX = "shapefit", ".safetensors"


def scene_path(path_or_name: str | Path) -> Path:
    """The file of a network given by path, or by its name in `models/` (repository or installed package).

    Raises ValueError naming the networks there are.
    """
    return shipped_file(path_or_name, SUFFIX, "file of a scene network", "one")


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
        "fold": network.fold,
        "attention": network.attention,
        "mirrored": network.mirrored,
        "structures": network.structures,
        "units": "mm",
        "about": network.about,
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(
            save(tensors, {KEY: json.dumps(head)})
        )  # `save_file` makes it ours alone to read


def read_scene(path_or_name: str | Path) -> SceneNetwork:
    """Read a scene network by path or by name (`pelvis-scene`), on the CPU, ready to look.

    Raises ValueError that says what is wrong with a file that is absent, cut off, of another version, not a
    scene network, or whose weights do not fit what its head says.
    """
    path = scene_path(path_or_name)
    head, tensors = _read(path)
    try:
        network = SceneNetwork(
            tensors["template"],
            tensors["faces"],
            head["structures"],
            head["pixels"],
            head["channels"],
            head["residual_units"],
            head["fold"],
            head.get("attention", 0),  # files of before know neither
            head.get("mirrored", False),
            head["about"],
        )
        network.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: the weights are not those of the network in its head ({error})") from None
    return network.eval()


def read_scene_mesh(path_or_name: str | Path) -> tuple[tuple[str, ...], Int64[Tensor, "F 3"]]:
    """The structures that a network knows, and its template's faces, without making the network.

    Raises ValueError as `read_scene` does.
    """
    path = scene_path(path_or_name)
    head, tensors = _read(path, "faces")
    if "faces" not in tensors:
        raise ValueError(f"{path} lacks its template's faces; it is not a complete scene network")
    return tuple(head["structures"]), tensors["faces"]


def _read(path: Path, name: str = "") -> tuple[dict, dict[str, Tensor]]:
    """The head of a file, and its tensors, or the one of this name."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys() if name in ("", key)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is cut off, damaged or not a safetensors file ({error})") from None
    if text is None:
        raise ValueError(f"{path} is not a scene network: its head has no {KEY!r}")
    head = json.loads(text)
    if head.get("schema") != SCHEMA:
        raise ValueError(f"{path} is a {head.get('schema')!r} file; this version reads {SCHEMA!r}")
    return head, tensors
