"""Log lines by time: the first iteration, then one whenever some seconds have passed, whatever the interval."""

from types import SimpleNamespace

import pytest
from conftest import REPO
from mmengine.config import Config
from mmseg.registry import HOOKS

from vit22b_dense.engine import timed_logger

LOOPS = {'train': ('before_train', 'after_train_iter'), 'val': ('before_val', 'after_val_iter')}
LOOPS['test'] = ('before_test', 'after_test_iter')


@pytest.fixture
def logged(monkeypatch):
    """Which iterations are logged of a loop whose iterations take some seconds each, by a clock that is made."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(timed_logger.time, 'monotonic', lambda: clock.now)

    def run(hook, seconds, iterations, mode='train', first=0) -> list[int]:
        lines = []
        runner = SimpleNamespace(
            iter=first,
            experiment_name='',
            train_dataloader=range(10**6),
            logger=SimpleNamespace(info=lambda line: None),
            visualizer=SimpleNamespace(add_scalars=lambda *_, **__: None),
            log_processor=SimpleNamespace(
                get_log_after_iter=lambda runner, idx, mode: lines.append(idx + 1) or ({}, '')
            ),
        )
        before, after = (getattr(hook, name) for name in LOOPS[mode])
        before(runner)
        for batch_idx in range(first, first + iterations):
            clock.now += seconds
            runner.iter = batch_idx
            after(runner, batch_idx, None, None)
        return lines

    return run


def shipped_hook() -> timed_logger.TimedLoggerHook:
    hook = HOOKS.build(Config.fromfile(REPO / 'configs/camvid/linear.py').default_hooks.logger)
    assert isinstance(hook, timed_logger.TimedLoggerHook)
    return hook


@pytest.mark.parametrize('mode', LOOPS)
def test_slow_iterations_are_logged_every_ten_seconds_and_fast_ones_by_the_interval(logged, mode):
    hook = shipped_hook()
    assert logged(hook, 0.01, 160, mode) == [1, 50, 100, 150]
    assert logged(hook, 4, 10, mode) == [1, 4, 7, 10]
    assert logged(hook, 60, 4, mode) == [1, 2, 3, 4]
    assert logged(hook, 0.25, 100, mode) == [1, 41, 50, 90, 100]


def test_a_resumed_run_logs_its_first_iteration(logged):
    assert logged(shipped_hook(), 0.01, 60, first=110) == [111, 150]


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match='intervall'):
        timed_logger.TimedLoggerHook(intervall=3)
