"""From one or a few fluoroscopy images to a patient's bone in 3D, with a shape model that anyone can train.

The public names. Each is imported when it is first asked for, so that `import shapefit` is quick.
"""

# ruff: noqa: F401 - type checkers read the imports below, `__getattr__` the table; a test holds them together

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shapefit.build import build_model
    from shapefit.calibration import calibration_table, coverage
    from shapefit.camera import Camera, world_from_view
    from shapefit.correspondence import Correspondence, correspond
    from shapefit.fit.landscape import loss_landscape
    from shapefit.fit.rigid import RigidFit, likeness, register_views
    from shapefit.fit.solve import XRayFit, fit_xrays
    from shapefit.fit.surface import SurfaceFit, fit_surface
    from shapefit.fit.surface_residual import follow_surface
    from shapefit.inspection import inspect_labels, inspect_meshes
    from shapefit.interop import camera_from_pytorch3d, pytorch3d_from_camera
    from shapefit.io.case import Case, read_case
    from shapefit.io.landmarks import read_landmarks, write_landmarks
    from shapefit.io.mesh import read_mesh, read_surfaces, write_mesh, write_surfaces
    from shapefit.io.model import read_model, write_model
    from shapefit.io.pose import read_pose, write_pose
    from shapefit.io.scene import read_scene, write_scene
    from shapefit.io.scores import read_scores, write_scores
    from shapefit.io.tfm import read_tfm, write_tfm
    from shapefit.io.volume import read_labels, read_volume, write_volume
    from shapefit.io.xray import (
        read_camera,
        read_image,
        read_mask,
        read_view,
        write_camera,
        write_image,
        write_mask,
    )
    from shapefit.jobs import (
        build_job,
        evaluate_job,
        export_job,
        fit_job,
        inspect_job,
        locate_job,
        model_info,
        modes_job,
        posterior_job,
        project_job,
        register_job,
        render_job,
        sample_job,
        simulate_job,
        train_scene_job,
    )
    from shapefit.materials import attenuation_coefficient
    from shapefit.metrics import compare, tabulate
    from shapefit.mode_count import cross_validation, parallel_analysis
    from shapefit.registration_metrics import (
        capture_range,
        gross_failure_rate,
        mean_projection_error,
        mean_reprojection_distance,
        mtre,
        registration_errors,
        registration_table,
        rotation_error,
        success_rate,
        translation_error,
    )
    from shapefit.render.mesh import render_depths, render_mesh
    from shapefit.render.radiograph import ct_paths, render_radiograph, simulate_radiograph
    from shapefit.render.signal import Detector, attenuation, detector_blur, detector_signal, poisson_noise
    from shapefit.render.simulate import Exposure, simulate_view
    from shapefit.render.volume import render_volume
    from shapefit.render.xray import Bone, material_paths, render_xray
    from shapefit.repair import RepairFindings, repair_mesh
    from shapefit.report import evaluation_page, fit_page, model_page
    from shapefit.residual import SurfaceProcess, learn_residual, with_residual
    from shapefit.scene.locate import locate_views
    from shapefit.scene.located import Located
    from shapefit.scene.look import look
    from shapefit.scene.network import SceneNetwork, network_input, scene_loss
    from shapefit.scene.simulate import simulate_sample, stage_of_model, stage_of_shapes
    from shapefit.scene.train import train_scene
    from shapefit.settings import (
        BuildSettings,
        CTSettings,
        EvaluateSettings,
        ExportSettings,
        FitSettings,
        InspectSettings,
        LandscapeSettings,
        LocateSettings,
        MeshSettings,
        ModelFileSettings,
        ModesSettings,
        PosteriorSettings,
        ProjectSettings,
        RegisterSettings,
        RenderSettings,
        SampleSettings,
        ShardSettings,
        SimulateSettings,
        SurfaceSettings,
        TrainSceneSettings,
    )
    from shapefit.shape_model import ShapeModel, train
    from shapefit.spectra import Spectrum, half_value_layer, spectrum
    from shapefit.surface import Surfaces, surfaces_from_labels
    from shapefit.view import View
    from shapefit.volume import Volume

_HOME = {
    "build": ["build_model"],
    "calibration": ["calibration_table", "coverage"],
    "camera": ["Camera", "world_from_view"],
    "correspondence": ["Correspondence", "correspond"],
    "fit.landscape": ["loss_landscape"],
    "fit.rigid": ["RigidFit", "likeness", "register_views"],
    "fit.solve": ["XRayFit", "fit_xrays"],
    "fit.surface": ["SurfaceFit", "fit_surface"],
    "fit.surface_residual": ["follow_surface"],
    "inspection": ["inspect_labels", "inspect_meshes"],
    "interop": ["camera_from_pytorch3d", "pytorch3d_from_camera"],
    "io.case": ["Case", "read_case"],
    "io.landmarks": ["read_landmarks", "write_landmarks"],
    "io.mesh": ["read_mesh", "read_surfaces", "write_mesh", "write_surfaces"],
    "io.model": ["read_model", "write_model"],
    "io.pose": ["read_pose", "write_pose"],
    "io.scene": ["read_scene", "write_scene"],
    "io.scores": ["read_scores", "write_scores"],
    "io.tfm": ["read_tfm", "write_tfm"],
    "io.volume": ["read_labels", "read_volume", "write_volume"],
    "io.xray": [
        "read_camera",
        "read_image",
        "read_mask",
        "read_view",
        "write_camera",
        "write_image",
        "write_mask",
    ],
    "jobs": [
        "build_job",
        "evaluate_job",
        "export_job",
        "fit_job",
        "inspect_job",
        "locate_job",
        "model_info",
        "modes_job",
        "posterior_job",
        "project_job",
        "register_job",
        "render_job",
        "sample_job",
        "simulate_job",
        "train_scene_job",
    ],
    "materials": ["attenuation_coefficient"],
    "metrics": ["compare", "tabulate"],
    "mode_count": ["cross_validation", "parallel_analysis"],
    "registration_metrics": [
        "capture_range",
        "gross_failure_rate",
        "mean_projection_error",
        "mean_reprojection_distance",
        "mtre",
        "registration_errors",
        "registration_table",
        "rotation_error",
        "success_rate",
        "translation_error",
    ],
    "render.mesh": ["render_depths", "render_mesh"],
    "render.radiograph": ["ct_paths", "render_radiograph", "simulate_radiograph"],
    "render.signal": ["Detector", "attenuation", "detector_blur", "detector_signal", "poisson_noise"],
    "render.simulate": ["Exposure", "simulate_view"],
    "render.volume": ["render_volume"],
    "render.xray": ["Bone", "material_paths", "render_xray"],
    "repair": ["RepairFindings", "repair_mesh"],
    "report": ["evaluation_page", "fit_page", "model_page"],
    "residual": ["SurfaceProcess", "learn_residual", "with_residual"],
    "scene.locate": ["locate_views"],
    "scene.located": ["Located"],
    "scene.look": ["look"],
    "scene.network": ["SceneNetwork", "network_input", "scene_loss"],
    "scene.simulate": ["simulate_sample", "stage_of_model", "stage_of_shapes"],
    "scene.train": ["train_scene"],
    "settings": [
        "BuildSettings",
        "CTSettings",
        "EvaluateSettings",
        "ExportSettings",
        "FitSettings",
        "InspectSettings",
        "LandscapeSettings",
        "LocateSettings",
        "MeshSettings",
        "ModelFileSettings",
        "ModesSettings",
        "PosteriorSettings",
        "ProjectSettings",
        "RegisterSettings",
        "RenderSettings",
        "SampleSettings",
        "ShardSettings",
        "SimulateSettings",
        "SurfaceSettings",
        "TrainSceneSettings",
    ],
    "shape_model": ["ShapeModel", "train"],
    "spectra": ["Spectrum", "half_value_layer", "spectrum"],
    "surface": ["Surfaces", "surfaces_from_labels"],
    "view": ["View"],
    "volume": ["Volume"],
}
_MODULE = {name: f"shapefit.{module}" for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("shapefit")
    if name not in _MODULE:
        raise AttributeError(f"module 'shapefit' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
