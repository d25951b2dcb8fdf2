"""Every number that steers a job: one frozen dataclass per job, with units. No torch: `--help` is quick."""

from shapefit.settings.landscape import CTSettings, LandscapeSettings
from shapefit.settings.register import RegisterSettings
from shapefit.settings.scene import LocateSettings, ShardSettings, SimulateSettings, TrainSceneSettings
from shapefit.settings.shape_model import (
    BuildSettings,
    ExportSettings,
    InspectSettings,
    ModelFileSettings,
    ModesSettings,
    PosteriorSettings,
    SampleSettings,
)
from shapefit.settings.surface import (
    EvaluateSettings,
    MeshSettings,
    ProjectSettings,
    SurfaceSettings,
)
from shapefit.settings.xray import (
    FitSettings,
    RenderSettings,
)

__all__ = [
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
]
