"""How good a scene network is on simulated X-rays that it did not learn from."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from shapefit.scene.coordinates import Coordinates
from shapefit.scene.network import SceneNetwork, decode, network_input, scene_loss
from shapefit.scene.train_batches import Batch
from shapefit.scene.train_team import Team
from shapefit.settings import TrainSceneSettings


def judge(
    network: SceneNetwork, batches: Iterable[Batch], settings: TrainSceneSettings, team: Team
) -> dict[str, float]:
    """Numbers on held-out samples, over all pixels whose rays meet the bone, entry and exit together.

    loss: `scene_loss`, its likelihood not weighted. error, error_90: median and 90th percentile of the
    distance between predicted and true coordinates, mm; error_sure: median of the half of the pixels that
    the network is surest of.
    std_ratio: root mean square of error / predicted standard deviation, along each axis (1: calibrated);
    within_std: share within one of them (0.683 for a Gaussian). dice: mean over structures, of all samples
    together; dice_<structure>: of each.
    Raises ValueError if no held-out sample shows the bone.
    """
    plain = replace(settings, beta=0.0)  # weighted with the variance, a loss rises when that falls
    network.eval()
    losses, distances, stds, ratios, within = [], [], [], [], []
    overlap = torch.zeros(2, len(network.structures), dtype=torch.float64)
    with torch.inference_mode():
        for given in batches:
            batch = given.to(team.device)
            with team.autocast():
                raw = network(network_input(batch.image, batch.valid))
            loss = scene_loss(raw, batch.entry, batch.exit, batch.structures, plain)["loss"]
            losses.append(float(loss) * len(batch.image))
            seen = decode(raw)
            predicted = seen.structures > 0.5
            overlap[0] += 2 * (predicted & batch.structures).sum((0, 2, 3)).cpu()
            overlap[1] += (predicted.sum((0, 2, 3)) + batch.structures.sum((0, 2, 3))).cpu()
            for error, std in _errors(seen, batch):
                distances.append(error.norm(dim=1).cpu())
                stds.append(std.cpu())
                ratio = (error / std[:, None]).cpu()
                ratios.append(float(ratio.square().sum()))
                within.append(float((ratio.abs() < 1).sum()))
    network.train()
    dice = overlap[0] / overlap[1].clamp_min(1)
    found = {"loss": sum(losses) / settings.held_out, "dice": float(dice.mean())}
    found |= {f"dice_{name}": float(value) for name, value in zip(network.structures, dice, strict=True)}
    distance, std = torch.cat(distances), torch.cat(stds)
    if not len(distance):
        raise ValueError(f"none of the {settings.held_out} held-out samples shows the bone; hold out more")
    surest = distance[std.argsort(stable=True)[: max(1, len(std) // 2)]]
    return found | {
        "error": float(distance.median()),
        "error_90": float(distance.kthvalue(max(1, round(0.9 * len(distance)))).values),
        "error_sure": float(surest.median()),
        "std_ratio": (sum(ratios) / (3 * len(distance))) ** 0.5,
        "within_std": sum(within) / (3 * len(distance)),
    }


def picture(network: SceneNetwork, batch: Batch, team: Team) -> Float[Tensor, "3 H W"]:
    """What the network sees in a batch, one row for each X-ray, in [0, 1], to look at while it learns.

    From left to right: the X-ray, black where it is not valid; true and predicted entry, whose x, y, z from
    -150 to 150 mm are red, green, blue; the same of the exit; true and predicted structures, the first three.
    """
    network.eval()
    with torch.inference_mode(), team.autocast():
        raw = network(network_input(batch.image.to(team.device), batch.valid.to(team.device)))
    network.train()
    seen = decode(raw.cpu())
    covered = batch.structures.any(1, keepdim=True)
    found = (seen.structures > 0.5).any(1, keepdim=True)

    def colours(points: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, (points / 300 + 0.5).clamp(0, 1), 0.0)

    def masks(structures: Tensor) -> Tensor:
        shown = structures[:, :3].to(torch.float32)
        return functional.pad(shown, (0, 0, 0, 0, 0, 3 - shown.shape[1]))

    panels = [
        (batch.image * batch.valid)[:, None].expand(-1, 3, -1, -1),
        colours(batch.entry, covered),
        colours(seen.entry, found),
        colours(batch.exit, covered),
        colours(seen.exit, found),
        masks(batch.structures),
        masks(seen.structures),
    ]
    return torch.cat([torch.cat(list(panel), 1) for panel in panels], 2)


def _errors(seen: Coordinates, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """(N, 3) errors in mm and (N) standard deviations of entry and exit, of the pixels that show bone."""
    covered = batch.structures.any(1)
    pairs = ((seen.entry, batch.entry, seen.entry_std), (seen.exit, batch.exit, seen.exit_std))
    return [((a - b).permute(0, 2, 3, 1)[covered], std[covered]) for a, b, std in pairs]
