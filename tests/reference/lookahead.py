"""Slow twin of Lookahead on Adam: plain floats, one weight after another."""

from collections.abc import Callable


def lookahead(
    gradients: Callable[[list[float]], list[float]], weights: list[float], joins: list[int], num_steps: int, lr: float
) -> list[list[float]]:
    """The weights after each step; weight i moves from step `joins[i]` on.

    Source: Kingma and Ba 2015, algorithm 1; Zhang et al. 2019, algorithm 1 with k = 5 and alpha = .5.
    """
    weights, slow = list(weights), list(weights)
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    seen = []
    for step in range(num_steps):
        gradient = gradients(weights)
        for i in range(len(weights)):
            t = step - joins[i] + 1
            if t < 1:
                continue
            first[i] = 0.9 * first[i] + 0.1 * gradient[i]
            second[i] = 0.999 * second[i] + 0.001 * gradient[i] ** 2
            weights[i] -= lr * (first[i] / (1 - 0.9**t)) / ((second[i] / (1 - 0.999**t)) ** 0.5 + 1e-8)
            if t % 5 == 0:
                slow[i] = slow[i] + 0.5 * (weights[i] - slow[i])
                weights[i] = slow[i]
        seen.append(list(weights))
    return seen
