"""Imports run one way: tools -> fewshot -> engine -> models -> checkpoint; `demo` and `waymo` know only tools."""

import ast
import subprocess
import sys

import pytest
from conftest import REPO

LEAVES = {'errors', 'files', 'progress', 'ranks', 'registry', 'strips', 'version', 'warm'}
ALLOWED = {
    'models': {'checkpoint'},
    'datasets': set(),
    'evaluation': set(),
    'engine': {'models', 'datasets', 'evaluation', 'checkpoint'},
    'fewshot': {'engine', 'models', 'datasets', 'evaluation', 'checkpoint'},
    'waymo': {'datasets'},
    'demo': {'waymo'},
    'benchmark': {'engine', 'models', 'checkpoint'},
    'planning': {'benchmark', 'engine', 'models'},
    'checkpoint': set(),
    'errors': set(),
    'files': set(),
    'progress': set(),
    'ranks': set(),
    'registry': set(),
    'strips': set(),
    'version': set(),
    'warm': set(),
}
FILES = sorted((REPO / 'vit22b_dense').rglob('*.py'))


def imported(path) -> set[str]:
    """First-level modules of the package that a file imports."""
    package = path.relative_to(REPO).with_suffix('').parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {n.name.split('.')[1] for n in node.names if n.name.startswith('vit22b_dense.')}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            full = base + (node.module.split('.') if node.module else [])
            if full[:1] == ['vit22b_dense']:
                found |= {full[1]} if len(full) > 1 else {n.name for n in node.names}
    return found


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_imports_run_one_way(path):
    parts = path.relative_to(REPO / 'vit22b_dense').with_suffix('').parts
    if parts == ('__init__',):
        return
    assert imported(path) <= ALLOWED[parts[0]] | LEAVES | {parts[0]}


def test_neither_torchvision_nor_timm_nor_the_tools_are_imported():
    text = '\n'.join(p.read_text() for p in [*FILES, *(REPO / 'tools').glob('*.py')])
    modules = set()
    for node in ast.walk(ast.parse(text.replace('from __future__', '# '))):
        if isinstance(node, ast.Import):
            modules |= {n.name.split('.')[0] for n in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split('.')[0])
    assert 'torch' in modules
    assert not modules & {'torchvision', 'timm', 'tools'}


def test_registration_happens_through_the_top_level_alone():
    """Every module that registers something is imported by `import vit22b_dense`."""

    for path in FILES:
        if 'register_module' in path.read_text():
            name = '.'.join(path.relative_to(REPO).with_suffix('').parts)
            assert name in sys.modules, name


def test_importing_changes_nothing_of_mmengines_and_leaves_stdout_alone():
    code = (
        'import sys, mmengine.runner.checkpoint as c; before = dict(c.CheckpointLoader._schemes); out = sys.stdout\n'
        'import vit22b_dense, contextlib\n'
        'assert c.CheckpointLoader._schemes == before and sys.stdout is out'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    assert not any('redirect_stdout' in path.read_text() for path in FILES)
