"""A new kernel adversary at every step, in closed form: what ridge regression on random Fourier features explains.

Kernel ridge regressors as adversaries: Sadeghi, Wang and Boddeti, ECML PKDD 2021 ("Adversarial Representation Learning
With Closed-Form Solvers"); random Fourier features: Rahimi and Recht, NIPS 2007.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from privatenet.models.objectives.conditional import ConditionalOptions, ConditionalTerm, residuals
from privatenet.models.objectives.queue import Queue
from privatenet.models.objectives.term import TermContext
from privatenet.models.probe import reduce_map


@dataclass(frozen=True)
class RffRidgeOptions(ConditionalOptions):
    """Settings of `rff_ridge`.

    Args:
        count: Number of random Fourier features, drawn anew at every step.
        components: Principal components that are whitened, the largest ones; far fewer than batch and queue together,
            since nothing can be learnt from as many as there are samples.
        gamma: Ridge, on kernels whose diagonal is 1.
        queue: Number of past samples that the adversary learns from beside the batch; 0 is none.
    """

    count: Annotated[int, Field(ge=1)] = 512
    components: Annotated[int, Field(ge=1)] = 64
    gamma: Annotated[float, Field(gt=0)] = 1.0
    queue: Annotated[int, Field(ge=0)] = 1024


class RffRidge(ConditionalTerm):
    """The share of the labels' variance in one half of the global batch that a ridge regression explains which learnt
    from the other half and from the queue, and the other way round: noise explains nothing.

    It looks at features averaged over neighbouring positions. Rows of the queue are empty where their label is -1.
    """

    options = RffRidgeOptions
    step: Tensor
    basis: Tensor

    def __init__(self, options: RffRidgeOptions, context: TermContext) -> None:
        super().__init__(options, context)
        self.count, self.gamma = options.count, options.gamma
        size = reduce_map(torch.zeros(1, *context.tap_shape)).shape[1]
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("basis", torch.linalg.qr(torch.randn(size, min(options.components, size)))[0])
        self.queue = Queue(options.queue, size)

    @property
    def changes(self) -> bool:
        return True

    def loss(self, values: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        features, labels, targets = self.queue(values, labels, targets)
        weights = (labels >= 0).float()
        whitened = self._whiten(features, weights)
        fourier = fourier_features(whitened, self.count, self._generator())
        one_hot = F.one_hot(labels.clamp(min=0), self.num_classes).float()
        return explained_share(fourier, one_hot, self.groups(targets), weights, len(values), self.gamma)

    def _whiten(self, features: Tensor, weights: Tensor) -> Tensor:
        """Leading principal components [N, C] of features [N, D], with unit covariance.

        The components are those of the last step, moved on by one step of orthogonal iteration.
        """
        centred = weights[:, None] * residuals(features, torch.ones_like(weights)[:, None], weights)
        with torch.no_grad():
            self.basis.copy_(torch.linalg.qr(centred.T @ (centred @ self.basis))[0])
        components = centred @ self.basis.clone()
        deviations = components.detach().square().mean(dim=0).sqrt()
        components = components / deviations.clamp(min=1e-5 * deviations.max() + 1e-12)
        correlation = components.T @ components / weights.sum() + 1e-4 * _identity(components.T)
        # Without a check, for which the host would wait: what is not finite ends training elsewhere.
        factor, _ = torch.linalg.cholesky_ex(correlation)
        whitened: Tensor = torch.linalg.solve_triangular(factor, components.T, upper=False)
        return whitened.T

    def _generator(self) -> torch.Generator:
        """Of this step, the same on every rank and after a resume."""
        self.step += 1
        return torch.Generator().manual_seed(int(self.step))  # the host waits for the device here


def fourier_features(whitened: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random features [N, count] of whitened ones [N, C], whose inner products approach exp(-d / 2C), d squared
    distances: 2C is what they are on average. Drawn on the CPU, so that all devices draw alike."""
    size = whitened.shape[1]
    frequencies = torch.randn(size, count, generator=generator) / math.sqrt(size)
    phases = 2 * math.pi * torch.rand(count, generator=generator)
    angles = whitened @ frequencies.to(whitened.device) + phases.to(whitened.device)
    return math.sqrt(2 / count) * angles.cos()


def explained_share(
    features: Tensor, one_hot: Tensor, groups: Tensor, weights: Tensor, num_test: int, gamma: float
) -> Tensor:
    """Share of the variance of `one_hot` [N, K] among the last `num_test` samples that ridge regression explains, 0 to
    1: it is tested on every second one of them after fitting all other samples of weight 1 (0 or 1, [N]).

    Variance is around the means of `groups` (one-hot [N, G]); what a group tells is taken out of features [N, F], too.
    A group that is not in the fit is not in the test.
    """
    residual = total = torch.zeros((), device=features.device)
    for half in (0, 1):
        test = slice(len(features) - num_test + half, None, 2)
        fit = weights.clone()
        fit[test] = 0
        inputs, outputs = residuals(features, groups, fit), residuals(one_hot, groups, fit)
        transposed = (fit[:, None] * inputs).T
        factor, _ = torch.linalg.cholesky_ex(transposed @ inputs + gamma * _identity(transposed))
        errors = outputs[test] - inputs[test] @ torch.cholesky_solve(transposed @ outputs, factor)
        present = groups[test] @ ((fit @ groups) > 0).float()
        total = total + (present[:, None] * outputs[test].square()).sum()
        residual = residual + (present[:, None] * errors.square()).sum()
    return (total - residual).clamp(min=0) / total.clamp(min=1e-6)


def _identity(rows: Tensor) -> Tensor:
    return torch.eye(len(rows), device=rows.device)
