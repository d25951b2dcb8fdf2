"""One function per job: read, compute, write. What the command line does, for scripts.

A job's files appear together when all of them are there; a job that raises leaves its output as it was.
`progress(what, fraction)` is called now and then. ValueErrors name the file or option that is wrong.
"""

from shapefit.jobs.build import build_job
from shapefit.jobs.evaluate import evaluate_job
from shapefit.jobs.fit import fit_job
from shapefit.jobs.inspect import inspect_job
from shapefit.jobs.locate import locate_job
from shapefit.jobs.model import export_job, model_info, modes_job, sample_job
from shapefit.jobs.posterior import posterior_job
from shapefit.jobs.project import project_job
from shapefit.jobs.register import register_job
from shapefit.jobs.render import render_job
from shapefit.jobs.simulate import simulate_job
from shapefit.jobs.train_scene import train_scene_job

__all__ = [
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
]
