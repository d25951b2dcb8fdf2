"""Meshes and cameras of other libraries where ours are taken: the one place that knows their conventions.

One mesh object stands for `vertices, faces` (and for `structure`, where a function has it):

- a `trimesh.Trimesh`: one structure, in mm;
- {name: trimesh.Trimesh}: several structures in that order, as `read_surfaces` gives them;
- a `pytorch3d.structures.Meshes`: a batch of meshes with the same faces.

One PyTorch3D camera stands for `camera_from_world, camera`. For a world point X it computes

    (x, y, z) = X R + T             x left, y up, z into the scene;  row vectors
    x_ndc = fx x / z + px           1 is half the image's shorter side, s pixels; so the image's point is
    x_screen = width / 2 - s x_ndc  to the right from the image's left edge: pixel j has its centre at j + 1/2

and y likewise; with `in_ndc=False`, x_screen = px - fx x / z, fx and px being in pixels. World units are
taken as mm. PyTorch3D itself is imported only to make one of its cameras; its objects bring it along.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from shapefit.camera import Camera

if TYPE_CHECKING:
    from pytorch3d.renderer import PerspectiveCameras

Function = TypeVar("Function", bound=Callable)
_ARRAYS = (Tensor, np.ndarray)


def accepts_foreign(function: Function) -> Function:
    """Decorator: lets a mesh object and a PyTorch3D camera stand for the parameters that they bring.

    Which these are is told by the names: `vertices`, `faces`, `structure`; `camera_from_world`, `camera`. The
    remaining arguments follow in order, so `render_mesh(mesh, camera_from_world, camera)` is
    `render_mesh(vertices[None], faces, camera_from_world, camera, structure)`. A keyword overrides what a
    mesh brings. A mesh takes the dtype and device of the poses (float64 where there are none), a camera those
    of tensors; a batch of one, of meshes or poses, serves all of the other. Functions without
    `camera_from_world` take one mesh. Arrays pass through untouched.
    """
    names = tuple(inspect.signature(function).parameters)
    doors = [
        (names.index(name), name) for name in ("vertices", "faces", "camera_from_world") if name in names
    ]

    @wraps(function)
    def door(*args: Any, **kwargs: Any) -> Any:
        for place, name in doors:
            if not isinstance(args[place] if place < len(args) else kwargs.get(name), _ARRAYS):
                return function(**_bound(function.__name__, names, args, kwargs))
        return function(*args, **kwargs)

    return door  # type: ignore[return-value]  # the same signature, and more


def mesh_arrays(mesh: Any) -> tuple[Float[Tensor, "B V 3"], Int[Tensor, "F 3"], Int[Tensor, "F"]]:
    """Vertices, faces and the structure of each face, from 0, of a mesh object as listed above.

    A Trimesh becomes float64, with a batch of one; the meshes of a mapping are one structure each, in order.
    PyTorch3D's vertices keep their dtype, device and gradients. Raises ValueError for anything else, for a
    mapping without meshes, and for a batch of meshes whose faces differ.
    """
    if isinstance(mesh, trimesh.Trimesh):
        return _joined([mesh])
    if isinstance(mesh, Mapping) and mesh and all(isinstance(m, trimesh.Trimesh) for m in mesh.values()):
        return _joined(list(mesh.values()))
    if _is_pytorch3d(mesh) and hasattr(mesh, "verts_padded"):
        faces = mesh.faces_list()
        if any(len(v) != len(mesh.verts_list()[0]) for v in mesh.verts_list()) or any(
            not torch.equal(f, faces[0]) for f in faces
        ):
            raise ValueError(
                f"the {len(faces)} meshes of the batch do not have the same faces; "
                "render them one by one, as in meshes[i]"
            )
        structure = torch.zeros(len(faces[0]), dtype=torch.int64, device=faces[0].device)
        return mesh.verts_padded(), faces[0], structure
    raise ValueError(
        "expected vertices and faces as arrays, or one trimesh.Trimesh, {name: trimesh.Trimesh} or "
        f"pytorch3d.structures.Meshes in their place, got {_described(mesh)}"
    )


def camera_from_pytorch3d(
    cameras: Any, image_size: tuple[int, int] | None = None, sdd: float = 1000.0
) -> tuple[Float[Tensor, "B 4 4"], Camera]:
    """`camera_from_world` and `Camera` of PyTorch3D's PerspectiveCameras or FoVPerspectiveCameras.

    `image_size` is (height, width) in pixels; needed if the cameras do not know it. A pinhole has a focal
    length in pixels alone: `sdd` (mm) says how far away the detector is taken to be, and so how large its
    pixels are; no path length depends on it. Gradients flow to R, T, focal lengths and principal points.
    Raises ValueError for views with different intrinsics (ours share one detector), for cameras without a
    centre of projection or with skewed pixels, and where nobody gives the image size.
    """
    if not (_is_pytorch3d(cameras) and hasattr(cameras, "get_projection_transform")):
        raise ValueError(
            "expected camera_from_world (B, 4, 4) and a Camera, or one PerspectiveCameras or "
            f"FoVPerspectiveCameras of PyTorch3D, got {_described(cameras)}"
        )
    if not cameras.is_perspective():
        raise ValueError(
            f"{type(cameras).__name__} have no centre of projection, which is where an X-ray source is; "
            "expected PerspectiveCameras or FoVPerspectiveCameras"
        )
    height, width = _image_size(cameras, image_size)
    # PyTorch3D's matrices act on row vectors from the right; float64, so that sdd / (sdd / fx) is fx again
    projection = cameras.get_projection_transform().get_matrix().mT.double()
    if not torch.equal(projection[1:, :2], projection[:1, :2].expand_as(projection[1:, :2])):
        raise ValueError(
            "the views have different focal lengths or centres; render them one by one: cameras[i]"
        )
    (fx, skew_x, px, _), (skew_y, fy, py, _) = projection[0, :2]
    if skew_x != 0 or skew_y != 0:
        raise ValueError("the cameras have skewed pixels, which an X-ray detector has not")
    if cameras.in_ndc():
        half = min(height, width) / 2
        fx, fy, px, py = half * fx, half * fy, -half * px, -half * py
    else:
        px, py = px - width / 2, py - height / 2
    delx, dely = sdd / fx, sdd / fy
    camera = Camera(sdd=sdd, delx=delx, dely=dely, x0=px * delx, y0=py * dely, height=height, width=width)
    turn = cameras.R.new_tensor([-1.0, -1.0, 1.0])  # left and up -> right and down
    top = torch.cat([turn[:, None] * cameras.R.mT, (turn * cameras.T)[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], 1), camera


def pytorch3d_from_camera(camera_from_world: Float[Tensor, "B 4 4"], camera: Camera) -> "PerspectiveCameras":
    """PyTorch3D's PerspectiveCameras (in screen space, float32, B views) that see what this camera sees.

    The way back of `camera_from_pytorch3d`, but for `sdd`, which they do not know. Needs PyTorch3D.
    """
    from pytorch3d.renderer import PerspectiveCameras

    pose = camera_from_world.float()
    k = camera.intrinsics(pose.dtype, pose.device)
    turn = pose.new_tensor([-1.0, -1.0, 1.0])
    return PerspectiveCameras(
        focal_length=torch.stack([k[0, 0], k[1, 1]]).expand(len(pose), 2),
        principal_point=(k[:2, 2] + 0.5).expand(len(pose), 2),
        R=(turn[:, None] * pose[:, :3, :3]).mT,
        T=turn * pose[:, :3, 3],
        in_ndc=False,
        image_size=((camera.height, camera.width),) * len(pose),
        device=pose.device,
    )


def _bound(function: str, names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, with those that foreign objects bring."""
    brought: dict[str, Any] = {}  # by a mesh
    given: dict[str, Any] = {}
    for value in args:
        left = [name for name in names if name not in brought and name not in given and name not in kwargs]
        if not left:
            raise TypeError(
                f"{function}() was given {len(args)} arguments by place, of which the mesh brings some"
            )
        _take(left[0], value, names, brought, given)
    for name, value in kwargs.items():
        _take(name, value, names, brought, given)
    pose = given.get("camera_from_world")
    if brought:
        _fit_mesh_to_poses(function, brought, pose, "camera_from_world" in names)
    elif pose is not None and isinstance(given.get("vertices"), Tensor):
        pose = given["camera_from_world"] = pose.to(given["vertices"])
    vertices = (brought | given).get("vertices")
    if pose is not None and vertices is not None and len(pose) == 1 < len(vertices):
        given["camera_from_world"] = pose.expand(len(vertices), 4, 4)
    return brought | given


def _take(
    name: str, value: Any, names: tuple[str, ...], brought: dict[str, Any], given: dict[str, Any]
) -> None:
    if name in ("vertices", "faces") and not isinstance(value, _ARRAYS):
        arrays = zip(("vertices", "faces", "structure"), mesh_arrays(value), strict=True)
        brought.update((key, array) for key, array in arrays if key in names)
    elif name == "camera_from_world" and not isinstance(value, _ARRAYS):
        given["camera_from_world"], given["camera"] = camera_from_pytorch3d(value)
    else:
        given[name] = value


def _fit_mesh_to_poses(function: str, mesh: dict[str, Any], pose: Tensor | None, posed: bool) -> None:
    if "vertices" not in mesh:
        return
    vertices = mesh["vertices"]
    if not posed:
        if len(vertices) != 1:
            raise ValueError(f"{function} takes one mesh, got a batch of {len(vertices)}; give it meshes[i]")
        mesh["vertices"] = vertices[0]
    elif isinstance(pose, Tensor):
        count = len(pose) if len(vertices) == 1 else len(vertices)
        mesh["vertices"] = vertices.to(pose).expand(count, -1, -1)
        for name in {"faces", "structure"} & set(mesh):
            mesh[name] = mesh[name].to(pose.device)


def _joined(meshes: list[trimesh.Trimesh]) -> tuple[Tensor, Tensor, Tensor]:
    start = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([np.asarray(mesh.vertices, dtype=np.float64) for mesh in meshes])
    faces = np.concatenate(
        [np.asarray(m.faces, dtype=np.int64) + n for m, n in zip(meshes, start, strict=False)]
    )
    structure = np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes])
    return torch.from_numpy(vertices)[None], torch.from_numpy(faces), torch.from_numpy(structure)


def _image_size(cameras: Any, image_size: tuple[int, int] | None) -> tuple[int, int]:
    if image_size is not None:
        height, width = image_size
        return int(height), int(width)
    known = cameras.get_image_size()
    if known is None:
        raise ValueError(
            f"these {type(cameras).__name__} do not know the image's size; "
            "convert them first: camera_from_pytorch3d(cameras, image_size=(height, width))"
        )
    sizes = {(int(h), int(w)) for h, w in torch.as_tensor(known).reshape(-1, 2)}
    if len(sizes) > 1:
        raise ValueError(f"the views have images of different sizes, {sorted(sizes)}; render them one by one")
    return sizes.pop()


def _is_pytorch3d(thing: Any) -> bool:
    return type(thing).__module__.split(".")[0] == "pytorch3d"


def _described(thing: Any) -> str:
    if isinstance(thing, Mapping):
        return f"a mapping of {', '.join(sorted({type(m).__name__ for m in thing.values()})) or 'nothing'}"
    return "nothing" if thing is None else f"{type(thing).__name__}"
