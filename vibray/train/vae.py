"""Training the VAE: the weight of the KL divergence rises from 0, so that the decoder learns to use the latent map first."""

import torch
from torch import Tensor

from vibray.models.backbone import per_record
from vibray.models.vae import Decoded, Vae, kl_divergence
from vibray.train.batches import WATCHED_RECORDS, Batch, Batches, TrainingSet, thinned, to
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import EpochMetrics, OptimConfig, Progress, Report, fit, silent
from vibray.train.guards import GuardReport, Trained, embedding_figures, score_figures, score_guards
from vibray.train.reduce import World


def beta_at(epoch: int, beta: float, warmup_epochs: int) -> float:
    """The weight in force in an epoch: linear from 0 in epoch 0 to `beta` from epoch `warmup_epochs` on."""
    return beta * min(1.0, epoch / warmup_epochs) if warmup_epochs else beta


def train_vae(net: Vae, rows: TrainingSet, optim: OptimConfig, report: Report = silent, checkpoints: Checkpoints | None = None) -> Trained:
    """Trains a VAE (or, with beta = 0, an autoencoder) in place, on all workers of the process group; each has to call it.

    With `checkpoints` a training that was stopped goes on where it was. The guards are those on the scores; they are not raised.
    """
    world = World.current()
    world.align(net)
    batches = Batches(rows, optim.batch_size, optim.seed, world)
    watched = Batches(thinned(rows, WATCHED_RECORDS), optim.batch_size, optim.seed, world)
    found = checkpoints.latest("train") if checkpoints else None
    progress = found.restore(net) if found else Progress()

    def warm_up() -> None:
        net.beta = beta_at(progress.epoch, net.config.beta, net.config.warmup_epochs)

    def on_epoch(epoch: int, metrics: EpochMetrics) -> bool | None:
        figures = {**metrics.values(), "beta": net.beta, **epoch_figures(net, watched)}
        warm_up()
        if checkpoints:
            checkpoints.note("train", epoch, figures)
        if checkpoints and world.rank == 0:
            checkpoints.save("train", net, progress)
        return report("train", epoch, figures)

    warm_up()
    fit(net, batches, optim, on_epoch, progress)
    net.beta = net.config.beta
    net.eval()
    scores = batches.collect(net, lambda batch: net.score(_outputs(net, batch)))
    return Trained(scores, GuardReport(score_guards(scores)))


def epoch_figures(net: Vae, watched: Batches) -> dict[str, float]:
    """The two terms of the loss, the latent map and what the guards look at after an epoch, in eval mode. Every worker has to call it."""

    def of_record(batch: Batch) -> Tensor:
        out = _outputs(net, batch)
        l1 = per_record((out.image - out.reconstruction).abs())
        kl = torch.zeros_like(l1) if out.logvar is None else kl_divergence(out.mu, out.logvar)
        return torch.cat([torch.stack([l1, kl, net.score(out)], dim=1), out.mu.flatten(1)], dim=1)

    figures = watched.collect(net, of_record)
    l1, kl, scores = figures[:, :3].T
    return {"l1": float(l1.mean()), "kl": float(kl.mean()), **embedding_figures(figures[:, 3:]), **score_figures(scores)}


def _outputs(net: Vae, batch: Batch) -> Decoded:
    return net(to(batch.x, next(net.parameters()).device))
