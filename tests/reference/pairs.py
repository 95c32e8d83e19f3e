"""Slow and obvious: areas by counting pairs and by walking down the scores."""

from itertools import pairwise


def auroc_by_pairs(scores, abnormal):
    """Share of pairs (abnormal, normal) in the right order, a tie counting one half."""
    won = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, x in zip(scores, abnormal, strict=True)
        if x
        for b, y in zip(scores, abnormal, strict=True)
        if not y
    ]
    return sum(won) / len(won)


def average_precision_by_steps(scores, abnormal):
    """Sum over distinct scores, from the highest: precision at that cut times the recall it adds."""
    total, area, recall = sum(abnormal), 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        caught = [y for s, y in zip(scores, abnormal, strict=True) if s >= cut]
        now = sum(caught) / total
        area += sum(caught) / len(caught) * (now - recall)
        recall = now
    return area


def partial_area_by_steps(scores, abnormal, max_fpr):
    """Area under the ROC curve, straight between its points, up to max_fpr; not normalised."""
    positives, negatives = sum(abnormal), len(abnormal) - sum(abnormal)
    points = [(0.0, 0.0)]
    for cut in sorted(set(scores), reverse=True):
        caught = [y for s, y in zip(scores, abnormal, strict=True) if s >= cut]
        points.append(((len(caught) - sum(caught)) / negatives, sum(caught) / positives))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= max_fpr:
            break
        end = min(x1, max_fpr)
        y_end = y1 if x1 == x0 else y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area
