"""The schedule of short runs, for configs of small data sets."""


def short_schedule(max_iters: int) -> tuple[dict, list[dict]]:
    """One warm-up of a twentieth of the run, linear decay, one validation at the end.

    Args:
        max_iters: iterations of training.

    Returns:
        A config's ``train_cfg`` and ``param_scheduler``.
    """
    warmup = max(2, max_iters // 20)  # after one iteration LinearLR would still be at its start factor
    train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
    param_scheduler = [
        dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
        dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
    ]
    return train_cfg, param_scheduler
