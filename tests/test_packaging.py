"""What pip installs: a wheel with configs and tools in mim's layout, and one command for all tools."""

import ast
import re
import sys
import zipfile

import numpy as np
import pytest
from conftest import REPO, write_image
from installed import Installed
from mmengine.config import Config
from mmengine.hub import get_config
from mmseg.registry import TRANSFORMS

import vit22b_dense_cli
from vit22b_dense import CONFIGS, find_config
from vit22b_dense.engine.config import ConfigError, axis_values, default_work_dir, load_config

TOOLS = sorted(path.stem for path in (REPO / 'tools').glob('*.py'))


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp('installed'))


def test_the_wheel_holds_every_config_tool_and_module(installed):
    with zipfile.ZipFile(installed.wheel) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if '.dist-info/' not in name}
    expected = {name: REPO / name for name in ('vit22b_dense_cli.py', 'vit22b_dense_interrupt.py')}
    for folder, place in (('configs', 'vit22b_dense/.mim/'), ('tools', 'vit22b_dense/.mim/'), ('vit22b_dense', '')):
        for path in (REPO / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc':
                expected[place + str(path.relative_to(REPO))] = path
    assert len(expected) > 150
    assert held == {name: path.read_bytes() for name, path in expected.items()}


def test_help_lists_every_tool_with_a_line(installed):
    done = installed.run('vit22b-dense', '--help')
    commands = dict(re.findall(r'^  ([a-z-]+)  +(\S.*)$', done.stdout.split('commands:\n')[1], re.MULTILINE))
    assert sorted(commands) == [name.replace('_', '-') for name in TOOLS]
    for name, line in commands.items():
        tool = REPO / 'tools' / f'{name.replace("-", "_")}.py'
        assert ast.get_docstring(ast.parse(tool.read_text())).startswith(line)
    assert {'train', 'test', 'predict', 'fewshot', 'make-toy-street', 'convert-checkpoint'} <= set(commands)


def test_an_unknown_command_lists_the_known(installed):
    done = installed.run('vit22b-dense', 'trian', check=False)
    assert done.returncode == 2
    assert "invalid choice: 'trian'" in done.stderr
    assert 'train' in done.stderr


def test_the_installed_command_runs_a_shipped_config_by_name(installed):
    """Axes are found beside the installed configs; messages, output and exit status are the tool's own."""
    label = np.arange(60 * 80, dtype=np.uint8).reshape(60, 80) % 4
    for n in range(16):
        write_image(installed.cwd / f'data/images/train/{n}.png', np.zeros((60, 80, 3), np.uint8))
        write_image(installed.cwd / f'data/annotations/train/{n}.png', label)
    arguments = ['--backbone', 'vit22b_tiny', '--fraction', '1/8', '--write', 'names.txt']
    done = installed.run('vit22b-dense', 'subset', 'own_data/linear.py', *arguments)
    assert '2 of 16 images (fraction 1/8, seed 0)' in done.stdout
    assert len((installed.cwd / 'names.txt').read_text().splitlines()) == 2
    done = installed.run('vit22b-dense', 'train', 'own_data/linear.py', '--backbone', 'vit23b', check=False)
    assert done.returncode == 1
    known = axis_values(REPO / 'configs/ade20k/linear.py', 'backbone')
    assert f"error: unknown backbone 'vit23b' for {installed.site}" in done.stderr
    assert done.stderr.strip().endswith(f'known: {", ".join(known)}')
    assert 'Traceback' not in done.stderr


def test_a_command_passes_arguments_and_exit_status_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['vit22b-dense', 'report', '--help'])
    with pytest.raises(SystemExit) as left:
        vit22b_dense_cli.main()
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith('usage: vit22b-dense report [-h]')
    monkeypatch.setattr(sys, 'argv', ['vit22b-dense', 'report', 'absent'])
    with pytest.raises(SystemExit) as left:
        vit22b_dense_cli.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith('error: absent')


def test_shipped_configs_go_by_name_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = REPO / 'configs/ade20k/linear.py'
    assert str(REPO / 'configs') == CONFIGS
    assert find_config('ade20k/linear.py') == find_config('vit22b_dense::ade20k/linear.py') == shipped
    cfg = load_config('vit22b_dense::ade20k/linear.py', dict(backbone='vit22b_tiny', fraction='1/16'))
    assert cfg.to_dict() == load_config(shipped, dict(backbone='vit22b_tiny', fraction='1/16')).to_dict()
    assert default_work_dir('vit22b_dense::ade20k/linear.py', {}) == 'work_dirs/ade20k_linear'
    mine = tmp_path / 'ade20k/linear.py'
    mine.parent.mkdir()
    mine.write_text('a = 1\n')
    assert find_config('ade20k/linear.py').resolve() == mine
    assert find_config('vit22b_dense::ade20k/linear.py') == shipped
    with pytest.raises(ConfigError, match=r'ade20k/linaer\.py: no such config file; .*ade20k/linear\.py'):
        find_config('ade20k/linaer.py')
    with pytest.raises(ConfigError, match=r'x: no such config file; .*camvid/linear\.py.*waymo/dpt\.py'):
        find_config('vit22b_dense::x')


def test_mmengine_finds_them_by_the_packages_name(caplog):
    expected = Config.fromfile(REPO / 'configs/ade20k/linear.py').to_dict()
    assert get_config('vit22b_dense::ade20k/linear.py').to_dict() == expected
    TRANSFORMS.build(dict(type='LoadImageFromFile', _scope_='vit22b_dense'))
    assert 'not installed' not in caplog.text
