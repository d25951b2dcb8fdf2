"""A network that says of each pixel of an X-ray where on the template its ray enters and leaves the bone.

Scene coordinates as in Shotton et al. 2013 (CVPR), for X-rays, where a ray has two of them; a U-Net
(Ronneberger et al. 2015, MICCAI) gives them with a variance each (Kendall & Gal 2017, NeurIPS) and the
structures' masks. Coordinates are points of the template in its own frame: a patient's bone that is bent
differently has the same ones.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from shapefit.scene.coordinates import Coordinates
from shapefit.settings import TrainSceneSettings

UNIT = 100.0  # mm, in which the network counts coordinates: a pelvis then fills -2..2
FLOOR = -9.0  # least log-variance, of UNIT^2: 1.1 mm, below which no pixel of an X-ray knows its place
CEILING = 3.0  # largest: 450 mm
DARKEST = 0.01  # intensity below which a pixel tells no more
_GROUPS = 8  # of channels, at most
_COORDINATES = 8  # channels before the structures': entry and exit, 3 each, and their log-variances


class SceneNetwork(nn.Module):
    """A U-Net from an X-ray to scene coordinates of one template.

    `template` are its vertices in mm (the mean of the shape model that it was trained on), `pixels` the
    longer side of the images that it was trained on, `channels` the width of each level, of which each but
    the last halves the image. Before that, squares of `fold` x `fold` pixels become one with as many
    channels, and at the end again pixels (Shi et al. 2016, CVPR): that makes it `fold` squared times as
    quick. On the lowest level `attention` blocks let each place see all the others. `mirrored` tells that it
    has learned from X-rays in a mirror too, `about` is what its file says of its making.
    Norms are over groups of channels (Wu & He 2018, ECCV): those of single channels take from an image's
    features their mean, and with it where on the bone it is as a whole.
    Raises ValueError for fewer than two levels, no structure and faces without vertices.
    """

    template: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]

    def __init__(
        self,
        template: Float[Tensor, "V 3"],
        faces: Int[Tensor, "F 3"],
        structures: Sequence[str],
        pixels: int = 128,
        channels: Sequence[int] = TrainSceneSettings().channels,
        residual_units: int = TrainSceneSettings().residual_units,
        fold: int = TrainSceneSettings().fold,
        attention: int = TrainSceneSettings().attention,
        mirrored: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> None:
        # takes seconds, for which who asks for no network need not wait
        from shapefit.scene.unet import AttentiveUNet

        super().__init__()
        if len(channels) < 2 or min(channels) < 1:
            raise ValueError(f"a scene network needs at least 2 levels of 1 channel, got {tuple(channels)}")
        if fold < 1:
            raise ValueError(f"a scene network folds squares of at least 1 pixel, got {fold}")
        if not structures:
            raise ValueError("a scene network needs the name of at least 1 structure")
        if faces.numel() and not 0 <= int(faces.min()) <= int(faces.max()) < len(template):
            raise ValueError(f"the template's faces name vertices beyond its {len(template)}")
        self.structures = tuple(structures)
        self.pixels = pixels
        self.channels = tuple(channels)
        self.residual_units = residual_units
        self.fold = fold
        self.attention = attention
        self.mirrored = mirrored
        self.about = dict(about or {})
        self.register_buffer("template", template.to(torch.float32).clone())
        self.register_buffer("faces", faces.to(torch.int64).clone())
        self.layers = AttentiveUNet(
            attention,
            spatial_dims=2,
            in_channels=2 * fold**2,
            out_channels=self.channels[0],
            channels=self.channels,
            strides=(2,) * (len(self.channels) - 1),
            num_res_units=residual_units,
            norm=("group", {"num_groups": math.gcd(_GROUPS, *self.channels)}),
        )
        self.answer = nn.Conv2d(self.channels[0], (_COORDINATES + len(self.structures)) * fold**2, 1)
        self.to(memory_format=torch.channels_last)  # a third faster on CPU and GPU

    @property
    def multiple(self) -> int:
        """Rows and columns of its input are multiples of this number."""
        return self.fold * 2 ** (len(self.channels) - 1)

    def forward(self, image: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B C H W"]:
        """`network_input` -> what `decode` and `scene_loss` read; sides are multiples of `multiple`."""
        folded = functional.pixel_unshuffle(image, self.fold).contiguous(memory_format=torch.channels_last)
        return functional.pixel_shuffle(self.answer(self.layers(folded)), self.fold)


def network_input(
    image: Float[Tensor, "B H W"], valid: Bool[Tensor, "B H W"] | None = None
) -> Float[Tensor, "B 2 H W"]:
    """Intensity in [0, 1] -> what the network sees: standardised -log I, and which pixels are valid (1, 0).

    Mean and standard deviation are those of the image's valid pixels; the others are 0.
    """
    valid = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    # a pixel that is not valid may hold NaN
    density = -torch.where(valid, image, 1.0).to(torch.float32).clamp(DARKEST, 1.0).log()
    share = valid.to(density)
    count = share.sum((1, 2), keepdim=True).clamp_min(1)
    centred = (density - (density * share).sum((1, 2), keepdim=True) / count) * share
    std = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return torch.stack([centred / std.clamp_min(1e-3), share], 1)


def decode(raw: Float[Tensor, "B C H W"]) -> Coordinates:
    """The network's output as coordinates in mm, their standard deviations, and probabilities."""
    raw = raw.to(torch.float32)
    std = UNIT * (0.5 * _log_variance(raw[:, 6:_COORDINATES])).exp()
    return Coordinates(
        UNIT * raw[:, 0:3], UNIT * raw[:, 3:6], std[:, 0], std[:, 1], raw[:, _COORDINATES:].sigmoid()
    )


def _log_variance(spread: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
    """Of entry and exit, in UNIT^2: never below FLOOR, which would stop the others from learning."""
    return (FLOOR + functional.softplus(spread - FLOOR)).clamp_max(CEILING)


def scene_loss(
    raw: Float[Tensor, "B C H W"],
    entry: Float[Tensor, "B 3 H W"],
    exit: Float[Tensor, "B 3 H W"],
    structures: Bool[Tensor, "B S H W"],
    settings: TrainSceneSettings,
) -> dict[str, Tensor]:
    """How wrong the network is: the terms, and "loss", their sum.

    entry, exit: negative log-likelihood of a Gaussian with the predicted variance, at the pixels whose rays
    meet the bone, weighted with that variance to the power `settings.beta`, so that pixels that are badly
    known yet do not stop learning (beta-NLL: Seitzer et al. 2022, ICLR). structures: cross-entropy plus
    1 - soft Dice (Milletari et al. 2016, 3DV), times `settings.structure_weight`.
    Sums over pixels are divided by the size of the image, not by the pixels that are covered: the mean of
    the losses of two halves of a batch is the loss of the batch.
    """
    # split at once: the gradient of a slice is as large as the whole
    *points, spread, logits = raw.to(torch.float32).split((3, 3, 2, structures.shape[1]), 1)
    mask = structures.to(logits)
    covered = mask.amax(1)
    terms = {}
    log_variances = _log_variance(spread).unbind(1)
    for name, point, target, log_var in zip(
        ("entry", "exit"), points, (entry, exit), log_variances, strict=True
    ):
        error = (point - target.to(point) / UNIT).square().sum(1)
        likelihood = 0.5 * error * (-log_var).exp() + 1.5 * log_var
        weight = (settings.beta * log_var.detach()).exp()
        terms[name] = (likelihood * weight * covered).mean()
    probability = logits.sigmoid()
    both, either = (probability * mask).sum((2, 3)), probability.sum((2, 3)) + mask.sum((2, 3))
    dice = (2 * both + 1) / (either + 1)  # 1 pixel: a structure that is absent is not all or nothing
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, mask)
    terms["structures"] = settings.structure_weight * (cross_entropy + 1 - dice.mean())
    return {"loss": sum(terms.values(), torch.zeros_like(cross_entropy)), **terms}
