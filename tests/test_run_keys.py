"""Every top-level key that mmengine's runners read reaches them; a mistyped one is told its nearest neighbour."""

import ast
import inspect

import mmengine.runner._flexible_runner as flexible_module
import mmengine.runner.runner as runner_module
import pytest
from conftest import REPO
from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from vit22b_dense.engine.config import INGREDIENTS, RUN_KEYS, ConfigError, load_config
from vit22b_dense.engine.run import DenseRunner, _build

CONFIG = REPO / 'configs/demo/linear.py'


def read_from_config(module) -> set[str]:
    """The keys of ``cfg.get('KEY')``, ``cfg['KEY']`` and ``self.cfg.get('KEY')`` in a module of mmengine."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get'
        owner = node.func.value if called else node.value if isinstance(node, ast.Subscript) else None
        key = node.args[0] if called and node.args else node.slice if isinstance(node, ast.Subscript) else None
        if owner is not None and ast.unparse(owner) in ('cfg', 'self.cfg') and isinstance(key, ast.Constant):
            found.add(key.value)
    return found


KEYS = sorted(read_from_config(runner_module) | read_from_config(flexible_module))


def test_the_list_from_mmengines_source_is_one():
    assert {'model', 'compile', 'model_wrapper_cfg', 'sync_bn', 'strategy', 'activation_checkpointing'} <= set(KEYS)
    assert len(KEYS) > 30


@pytest.mark.parametrize('key', KEYS)
def test_every_key_that_runners_read_reaches_them(key, monkeypatch):
    """As an override and from a file, to the config that the runner is built of."""
    built = []
    for kind in (Runner, FlexibleRunner, DenseRunner):
        monkeypatch.setattr(kind, 'from_cfg', lambda cfg: built.append(cfg))
    override = {f'{key}.some': 'value'} if isinstance(load_config(CONFIG, {}).get(key), dict) else {key: 'value'}
    cfg = load_config(CONFIG, {}, override)
    _build(cfg)
    assert (built[0][key]['some'] if f'{key}.some' in override else built[0][key]) == 'value'


def test_a_key_in_a_file_reaches_the_runner_too(tmp_path):
    load_config(CONFIG, {}).dump(tmp_path / 'base.py')
    lines = ''.join(f'{key} = dict(some="value")\n' for key in KEYS if key not in load_config(CONFIG, {}))
    (tmp_path / 'own.py').write_text(f"_base_ = ['base.py']\nmine = 3\n{lines}test_pipeline = []\n")
    cfg = load_config(tmp_path / 'own.py', {})
    assert set(KEYS) <= set(cfg)
    assert cfg.mine == 3
    assert cfg.test_pipeline == []


def test_a_strategy_is_run_by_the_flexible_runner(monkeypatch):
    monkeypatch.setattr(FlexibleRunner, 'from_cfg', lambda cfg: 'flexible')
    assert _build(load_config(CONFIG, {}, {'strategy.type': 'FSDPStrategy'})) == 'flexible'


def test_the_ingredients_are_those_of_the_base_files():
    found = set()
    for file in (REPO / 'configs/_base_').rglob('*.py'):
        for node in ast.parse(file.read_text()).body:
            found |= {target.id for target in getattr(node, 'targets', []) if isinstance(target, ast.Name)}
    assert found - RUN_KEYS - {'_base_'} == INGREDIENTS


@pytest.mark.parametrize(
    ('key', 'nearest'), [('optim_wraper', 'optim_wrapper'), ('complie', 'compile'), ('default_hook', 'default_hooks')]
)
def test_an_unknown_key_is_told_its_nearest(key, nearest, tmp_path):
    with pytest.raises(ConfigError, match=rf'--cfg-options {key}\.x: no run reads it; did you mean {nearest}\?'):
        load_config(CONFIG, {}, {f'{key}.x': 1})
    (tmp_path / 'own.py').write_text(f'{Config(load_config(CONFIG, {}).to_dict()).pretty_text}\n{key} = 1\n')
    with pytest.raises(ConfigError, match=rf'own\.py: {key}: no run reads it; did you mean {nearest}\?'):
        load_config(tmp_path / 'own.py', {})
