"""The metrics that go with a config's own: one scores a constant answer, one each image."""

from collections.abc import Sequence

PROTOCOL = ('max_depth', 'min_depth', 'crop')


def companions(evaluators: Sequence[dict]) -> list[dict]:
    """Configs of the metrics beside some evaluators: those of depth follow its protocol; others have none."""
    found = []
    kinds = {evaluator['type']: evaluator for evaluator in reversed(evaluators)}
    if 'IoUMetric' in kinds:
        found.append(dict(type='ImageIoUMetric'))
    if depth := kinds.get('SparseDepthMetric'):
        protocol = {key: depth[key] for key in PROTOCOL if key in depth}
        average = depth.get('average', 'pixel')
        found += [dict(type='MeanDepthMetric', average=average, **protocol), dict(type='ImageDepthMetric', **protocol)]
    return found


def summary(scores: dict[str, float]) -> str:
    """The main scores in a line, beside those of a constant answer."""
    if 'mIoU' in scores:
        beside = f' (majority class {scores["majority/mIoU"]:.2f})' if 'majority/mIoU' in scores else ''
        return f'mIoU {scores["mIoU"]:.2f}{beside}'
    names = [name for name in ('abs_rel', 'rmse', 'delta_1.25') if name in scores]
    if not names:
        return ', '.join(f'{name} {value:.4g}' for name, value in list(scores.items())[:5]) or 'no scores'
    shown = (f'{n} {scores[n]:.3f} ({scores.get(f"mean_depth/{n}", float("nan")):.3f})' for n in names)
    pooled = scores[names[0]] == scores.get(f'pixel/{names[0]}')
    average = 'over all pixels' if pooled else "mean of the images' own scores"
    return f'{", ".join(shown)}; in brackets the mean depth; {average}'
