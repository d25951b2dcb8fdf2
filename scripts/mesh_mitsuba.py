"""Mitsuba 3 as a peer of `benchmark_mesh.py`: a loop over the hits of every ray on its LLVM backend.

The derivative runs the loop again and propagates each hit's share from inside it (path replay, the recipe
of its authors), so no hit is stored.
"""

import drjit as dr
import mitsuba as mi
import numpy as np
from mesh_scenes import Scene

mi.set_variant("llvm_ad_rgb")


def hit_loop(scene: Scene, threads: int, step: float | None):
    """What a Peer holds. Rays go on from a hit by `spawn_ray`, or `step` mm further along themselves."""
    dr.set_thread_count(threads)
    mesh = mi.Mesh("mesh", len(scene.vertices), len(scene.faces))
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = scene.vertices.astype(np.float32).ravel()
    parameters["faces"] = scene.faces.astype(np.uint32).ravel()
    parameters.update()
    world = mi.load_dict({"type": "scene", "mesh": mesh})
    parameters, key = mi.traverse(world), "mesh.vertex_positions"
    start, directions = scene.rays()
    source, beam = mi.Point3f(*start.tolist()), mi.Vector3f(directions.T.astype(np.float32))
    weight, values = mi.Float(scene.weight().ravel()), mi.Float(parameters[key])
    dr.make_opaque(source, beam, weight, values)

    def place():
        parameters[key] = mi.Float(values)
        dr.enable_grad(parameters[key])
        parameters.update()
        dr.sync_thread()

    def forward():
        with dr.suspend_grad():
            image = paths(world, source, beam, step)
        dr.eval(image)
        dr.sync_thread()
        return np.array(image)

    def backward():
        dr.set_grad(parameters[key], 0)
        with dr.suspend_grad():
            image = paths(world, source, beam, step)
            replay(world, source, beam, step, weight)
        gradient = dr.grad(parameters[key])
        dr.eval(image, gradient)
        dr.sync_thread()
        return np.array(image), np.array(gradient).reshape(-1, 3)

    place()
    return place, forward, backward


def onwards(si, beam, step):
    return si.spawn_ray(beam) if step is None else mi.Ray3f(si.p + step * beam, beam)


@dr.syntax
def paths(world, source, beam, step):
    ray, path, active = mi.Ray3f(mi.Point3f(source), mi.Vector3f(beam)), mi.Float(0), mi.Bool(True)
    while active:
        found = world.ray_intersect_preliminary(ray, coherent=mi.Bool(True), active=active)
        si = found.compute_surface_interaction(ray, mi.RayFlags.Minimal, active)
        active &= si.is_valid()
        path += dr.select(active, dr.sign(dr.dot(si.n, beam)) * dr.dot(si.p - source, beam), 0)
        ray = onwards(si, beam, step)
    return path


@dr.syntax
def replay(world, source, beam, step, weight):
    ray, active = mi.Ray3f(mi.Point3f(source), mi.Vector3f(beam)), mi.Bool(True)
    while active:
        found = world.ray_intersect_preliminary(ray, coherent=mi.Bool(True), active=active)
        si = found.compute_surface_interaction(ray, mi.RayFlags.Minimal, active)
        active &= si.is_valid()
        with dr.resume_grad():
            hit = found.compute_surface_interaction(ray, mi.RayFlags.Minimal, active)
            dr.backward_from(dr.select(active, weight * dr.sign(dr.dot(si.n, beam)) * hit.t, 0))
        ray = onwards(si, beam, step)
