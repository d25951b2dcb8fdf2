"""The renderer as torch operators: derivatives, compilation, autocast, and what they refuse."""

import os
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest
import torch
import trimesh

from shapefit import render
from shapefit.camera import Camera, ray_lengths
from shapefit.render import _checks, _ops
from tests.test_render_mesh import COARSE, SPHERE, mesh_tensors, pose
from tests.twins import BACKENDS, NO_TRITON

CUBE = mesh_tensors(trimesh.creation.box((100, 110, 120)))
TINY = Camera(1020.0, 31.0, 29.0, 3.0, -2.0, 7, 6)


@pytest.fixture
def unchecked():
    """Shape checks off: torch.compile cannot trace what makes their messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def scene(shape=CUBE, camera=TINY):
    """Homogeneous pixel points (two views), faces and structures: what the operators take."""
    vertices, faces = shape
    poses = torch.cat([pose(), pose((0.4, -1.2, 0.3, 2.0, 1.0, 7.0))])
    points = render.mesh.homogeneous_pixels(camera, poses, torch.stack([vertices, 1.2 * vertices]))
    return points.contiguous(), faces, torch.zeros(len(faces), dtype=torch.int64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_pass_gradcheck(backend):
    points, faces, structure = scene()
    size = (1, TINY.height, TINY.width, torch.float64, backend)
    points, lengths = points[:1].clone().requires_grad_(), ray_lengths(TINY).requires_grad_()

    def path(p, q):
        return _ops.signed_depth(p, faces, structure, q, 1, backend)

    def first_and_last(p):
        return _ops.depth_range(p, faces, structure, *size)[0]

    assert (path(points, lengths) > 0).sum() > 10
    # the fixed point of the GPU resolves 1e-13 mm
    settings = {"eps": 1e-3, "atol": 1e-5, "rtol": 1e-4, "fast_mode": backend == "triton"}
    assert torch.autograd.gradcheck(path, (points, lengths), **settings)
    assert torch.autograd.gradcheck(first_and_last, points, **settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators_are_registered_as_torch_expects(backend):
    points, *rest = scene()
    given = (points.requires_grad_(), *rest)
    torch.library.opcheck(_ops.signed_depth, (*given, ray_lengths(TINY), 1, backend))
    size = (1, TINY.height, TINY.width, torch.float64)
    torch.library.opcheck(_ops.depth_range, (*given, *size, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rendering_compiles_into_one_graph(backend, unchecked):
    vertices, faces = SPHERE
    structure = (vertices[faces].mean(1)[:, 0] > 0).long() * 0

    def loss(v, t):
        image = render.render_mesh(v, faces, t, COARSE, structure, structures=1, backend=backend)
        first, last = render.render_depths(v, faces, t, COARSE, backend=backend)
        return image.square().mean() + (last - first).mean()

    results = []
    # the graph with its backward graph, without the minute that generating C++ would take
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        v, t = vertices[None].clone().requires_grad_(), pose().requires_grad_()
        value = function(v, t)
        results.append((value.detach(), *torch.autograd.grad(value, (v, t))))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-12)


def test_a_compiled_graph_still_refuses_an_open_mesh(unchecked):
    vertices, faces = SPHERE
    compiled = torch.compile(render.render_mesh, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match="not closed: 3 boundary edges"):
        compiled(vertices[None], faces[1:], pose(), COARSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_touch_the_geometry(backend):
    vertices, faces = SPHERE
    v = vertices.float()[None]
    plain = render.render_mesh(v, faces, pose().float(), COARSE, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        cast = render.render_mesh(v, faces, pose().float(), COARSE, backend=backend)
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)
    # vertices that a network computed in bfloat16 are taken at their word
    half = render.render_mesh(v.bfloat16(), faces, pose().bfloat16(), COARSE, backend=backend)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_the_same_bits_on_every_run(backend):
    vertices, faces = SPHERE
    runs = []
    for _ in range(3):
        v = vertices.float()[None].clone().requires_grad_()
        image = render.render_mesh(v, faces, pose().float(), COARSE, backend=backend)
        first, last = render.render_depths(v, faces, pose().float(), COARSE, backend=backend)
        gradient = torch.autograd.grad(image.square().sum() + (last - first).sum(), v)
        runs.append((image, first, last, *gradient))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@NO_TRITON
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels have run on this machine's GPU")
def test_gpu_kernels_compile_for_a_gpu(tmp_path):
    # the interpreter accepts more than the compiler does; ptxas comes with Triton and needs no GPU
    program = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from shapefit.render import _mesh_triton_kernels as kernels

i = "i32"
ints, block = [i] * 5, dict(FACES=8, LANES=8)
for name, types, constants in (
    ("sum_depths", ["*fp64", "*i64", "*i64", "*fp64", "*i64", *ints], block),
    ("from_fixed", ["*i64", "*fp64", "*fp32", "*fp32", i, i], dict(PIXELS=1024)),
    ("extreme_depths", ["*fp64", "*i64", "*i64", "*i64", "*i32", *ints, i], dict(NAMING=False, **block)),
    ("extreme_depths", ["*fp64", "*i64", "*i64", "*i64", "*i32", *ints, i], dict(NAMING=True, **block)),
    ("sum_corners", ["*fp64", "*fp64", "*i64", "*i64", "*fp32", "*fp32", "*i32", "*fp64", *ints],
     dict(HITS=False, NEAR_EDGE_ON=1e-9, UNDERFLOW=1e-150, **block)),
    ("gather_corners", ["*fp64", "*fp64", "*i64", "*i64", "*i64", "*fp64", i, i], dict(VERTICES=256)),
):
    kernel = getattr(kernels, name)
    free = [n for n in kernel.arg_names if n not in constants]
    signature = dict(zip(free, types, strict=True)) | {n: "constexpr" for n in constants}
    constexprs = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    options = dict(num_warps=1, enable_fp_fusion=False)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(binary.asm["cubin"]) > 1000
    assert "fma.rn.f64" not in binary.asm["ptx"]  # both faces of an edge must round alike
print("compiled")
"""
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "compiled", done.stderr


@pytest.mark.parametrize(
    "seed, drop", [(seed, drop) for seed in range(3) for drop in ([0], [5, 17], [3, 4, 5, 6])]
)
def test_every_hole_is_found_wherever_it_is(seed, drop):
    vertices, faces = SPHERE
    order = np.random.default_rng(seed).permutation(len(faces))
    faces = faces[order]
    keep = [f for f in range(len(faces)) if f not in drop]
    render.render_mesh(vertices[None], faces, pose(), COARSE)
    with pytest.raises(ValueError, match=r"not closed: \d+ boundary edges"):
        render.render_mesh(vertices[None], faces[keep], pose(), COARSE)
    with pytest.raises(ValueError, match="not closed: 6 boundary edges"):  # one face turned over
        turned = faces.clone()
        turned[drop[0]] = turned[drop[0]].flip(0)
        render.render_mesh(vertices[None], turned, pose(), COARSE)


@pytest.mark.parametrize("shape", [SPHERE, CUBE])
def test_edges_are_counted_alike_on_every_device(shape):
    _, faces = shape
    one, two = torch.zeros(len(faces), dtype=torch.int64), torch.arange(len(faces)) % 2
    turned = faces.clone()
    turned[3] = turned[3].flip(0)
    for f, structure, unpaired in (
        (faces, one, False), (faces.int(), one, False),
        (faces.repeat(2, 1), torch.cat([one, one + 1]), False),
        (faces[1:], one[1:], True), (turned, one, True), (faces, two, True),
    ):  # fmt: skip
        audits = _checks._audit(f, structure), _checks._audit_anywhere(f, structure)
        assert audits[0] == audits[1] and audits[0][0] == unpaired


def test_structures_must_be_closed_each_for_itself():
    # two halves of one sphere: together they are closed, as two bones they are not
    vertices, faces = SPHERE
    halves = (vertices[faces].mean(1)[:, 2] > 0).long()
    with pytest.raises(ValueError, match=r"structure 0 is not closed: \d+ boundary edges"):
        render.render_mesh(vertices[None], faces, pose(), COARSE, halves)


def test_unusable_input_is_refused_with_what_arrived(unchecked):
    vertices, faces = SPHERE
    one = torch.zeros(len(faces), dtype=torch.int64)

    def attempt(match, v=vertices, f=faces, structure=None, structures=None):
        with pytest.raises(ValueError, match=match):
            render.render_mesh(v[None], f, pose(), COARSE, structure, structures)

    attempt("the mesh has no faces", f=faces[:0])
    attempt(r"faces name vertices 0 to 642, and the mesh has 642", f=torch.where(faces == 641, 642, faces))
    attempt("faces name vertices -1 to", f=torch.where(faces == 0, -1, faces))
    attempt(r"expected 0 to 0 \(structures=1\)", structure=one + 1, structures=1)
    attempt("structures -1 to -1", structure=one - 1, structures=1)
    attempt("structure numbers 3 faces, and the mesh has 1280", structure=one[:3], structures=1)
    broken = vertices.clone()
    broken[7, 1] = torch.nan
    attempt("1 projected vertices are not finite", v=broken)
    attempt("642 projected vertices are not finite", v=vertices * 1e300)


@NO_TRITON
def test_triton_asks_for_a_gpu(monkeypatch):
    from shapefit.render import _mesh_triton

    monkeypatch.setattr(_mesh_triton, "INTERPRETED", False)
    with pytest.raises(ValueError, match="backend 'triton' needs a CUDA device, got tensors on 'cpu'"):
        render.render_mesh(SPHERE[0][None], SPHERE[1], pose(), COARSE, backend="triton")
