"""The metrics that go with a config's own: of a constant answer, of each image, of what the token grid allows."""

from collections.abc import Sequence

IOU = ('CountedIoUMetric', 'IoUMetric')  # ours, and mmseg's
PROTOCOL = ('max_depth', 'min_depth', 'crop')
AVERAGE_TEXT = {'pixel': 'over all pixels', 'image': "mean of the images' own scores"}


def companions(evaluators: Sequence[dict]) -> list[dict]:
    """Configs of the metrics beside some evaluators: those of depth follow its protocol; others have none."""
    found = []
    kinds = {evaluator['type']: evaluator for evaluator in reversed(evaluators)}
    if kinds.keys() & {*IOU}:
        found += [dict(type='ImageIoUMetric'), dict(type='GridIoUMetric')]
    if depth := kinds.get('SparseDepthMetric'):
        protocol = {key: depth[key] for key in PROTOCOL if key in depth}
        average = depth.get('average', 'pixel')
        found += [dict(type=kind, average=average, **protocol) for kind in ('MeanDepthMetric', 'GridDepthMetric')]
        found.append(dict(type='ImageDepthMetric', **protocol))
    return found


def custom_average(scores: dict[str, float]) -> str:
    """Which average a data set's depth scores have without a prefix: ``'pixel'`` or ``'image'``."""
    pooled = scores.get('pixel/abs_rel')
    return 'pixel' if scores.get('abs_rel', pooled) == pooled else 'image'


def summary(scores: dict[str, float]) -> str:
    """The main scores in a line, beside those of a constant answer and of the labels at the token grid."""
    if 'mIoU' in scores:
        beside = {'majority class': 'majority/mIoU', 'labels at the token grid': 'grid/mIoU'}
        known = ', '.join(f'{title} {scores[name]:.2f}' for title, name in beside.items() if name in scores)
        return f'mIoU {scores["mIoU"]:.2f}' + (f' ({known})' if known else '')
    names = [name for name in ('abs_rel', 'rmse', 'delta_1.25') if name in scores]
    if not names:
        return ', '.join(f'{name} {value:.4g}' for name, value in list(scores.items())[:5]) or 'no scores'
    beside = {'the mean depth': 'mean_depth', 'the true depth at the token grid': 'grid'}
    beside = {title: kind for title, kind in beside.items() if f'{kind}/{names[0]}' in scores}
    shown = []
    for name in names:
        others = ', '.join(f'{scores[f"{kind}/{name}"]:.3f}' for kind in beside.values())
        shown.append(f'{name} {scores[name]:.3f}' + (f' ({others})' if others else ''))
    average = AVERAGE_TEXT[custom_average(scores)] if 'abs_rel' in scores else ''
    brackets = f'in brackets {" and ".join(beside)}' if beside else ''
    return '; '.join(filter(None, [', '.join(shown), brackets, average]))
