"""The metrics that go with a config's own: one scores a constant answer, one each image."""

from collections.abc import Sequence

PROTOCOL = ('max_depth', 'min_depth', 'crop')
AVERAGE_TEXT = {'pixel': 'over all pixels', 'image': "mean of the images' own scores"}


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


def custom_average(scores: dict[str, float]) -> str:
    """Which average a data set's depth scores have without a prefix: ``'pixel'`` or ``'image'``."""
    pooled = scores.get('pixel/abs_rel')
    return 'pixel' if scores.get('abs_rel', pooled) == pooled else 'image'


def summary(scores: dict[str, float]) -> str:
    """The main scores in a line, beside those of a constant answer where they are known."""
    if 'mIoU' in scores:
        beside = f' (majority class {scores["majority/mIoU"]:.2f})' if 'majority/mIoU' in scores else ''
        return f'mIoU {scores["mIoU"]:.2f}{beside}'
    names = [name for name in ('abs_rel', 'rmse', 'delta_1.25') if name in scores]
    if not names:
        return ', '.join(f'{name} {value:.4g}' for name, value in list(scores.items())[:5]) or 'no scores'
    beside = {n: f' ({scores[key]:.3f})' if (key := f'mean_depth/{n}') in scores else '' for n in names}
    shown = ', '.join(f'{n} {scores[n]:.3f}{beside[n]}' for n in names)
    average = AVERAGE_TEXT[custom_average(scores)] if 'abs_rel' in scores else ''
    return '; '.join(filter(None, [shown, 'in brackets the mean depth' if any(beside.values()) else '', average]))
