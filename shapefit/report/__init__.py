"""One self-contained HTML page per job: of a fit, of an evaluation, of a shape model."""

from shapefit.report.colours import structure_colours
from shapefit.report.evaluation import evaluation_page
from shapefit.report.fit import fit_page
from shapefit.report.model import model_page
from shapefit.report.overlay import write_overlays

__all__ = ["evaluation_page", "fit_page", "model_page", "structure_colours", "write_overlays"]
