"""README and documentation: commands parse, and files, flags, links and public names exist.

A block of commands that nothing here can check has `<!-- not checked: REASON -->` in the line above it.
"""

import argparse
import ast
import importlib
import itertools
import re
import runpy
import shlex
import tomllib
from functools import cache

import pytest
import yaml
from conftest import REPO

from vit22b_dense.engine.config import AXES, axis_values, load_config, parse_overrides

PAGES = [REPO / 'README.md', REPO / 'CONTRIBUTING.md', *sorted(REPO.glob('docs/*.md'))]
TOOLS = sorted(REPO.glob('tools/*.py'))
LEAVES = sorted(REPO.glob('configs/[!_]*/*.py'))
PROJECT = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
BLOCK = re.compile(r'^(?:<!-- (not checked): [^\n]+ -->\n)?```(\w*)\n(.*?)^```$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
FILE = re.compile(r'(?<![\w/{}…-])(?:configs|docs|tests|tools)/[\w/.{},*-]*\w')
FLAG = re.compile(r'`(--[\w-]+)')
ids = dict(ids=lambda value: str(value.relative_to(REPO)) if hasattr(value, 'relative_to') else str(value)[:90])


class Caught(BaseException):
    """Raised in place of a tool's work, with its parser."""


@cache
def parser_of(tool):
    """A tool's own argument parser, taken where the tool is about to use it."""

    def parse_args(self, args=None, namespace=None):
        raise Caught(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        with pytest.raises(Caught) as caught:
            runpy.run_path(str(tool), run_name='__main__')
    parser = caught.value.args[0]
    parser.allow_abbrev = False  # `--out` would still be taken for a renamed `--out-dir`
    return parser


def commands_in(text):
    """The commands of some lines of shell, as lists of words."""
    return [shlex.split(line, comments=True) for line in text.replace('\\\n', ' ').splitlines() if line.strip()]


def documented():
    """Where each command stands, and its words: pages, the tools' help, the configs' docstrings."""
    for page in PAGES:
        for unchecked, language, text in BLOCK.findall(page.read_text()):
            if language == 'bash' and not unchecked:
                yield from ((page, words) for words in commands_in(text) if words)
    for tool in TOOLS:
        strings = [node.value for node in ast.walk(ast.parse(tool.read_text())) if isinstance(node, ast.Constant)]
        examples = [s.removeprefix('Example: ') for s in strings if isinstance(s, str) and s.startswith('Example: ')]
        yield from ((tool, shlex.split(example)) for example in examples)
    for leaf in LEAVES:
        lines = ast.get_docstring(ast.parse(leaf.read_text())).splitlines()
        yield from ((leaf, shlex.split(line)) for line in lines if line.startswith(('tools/', 'vit22b-dense ')))


def tool_of(words):
    """The script that a command runs and its arguments; None for another kind of command."""
    if words[0] == 'torchrun':
        words = list(itertools.dropwhile(lambda word: not word.endswith('.py'), words))
    if words[0] == 'vit22b-dense':
        return REPO / f'tools/{words[1].replace("-", "_")}.py', words[2:]
    words = words[1:] if words[0] == 'python' else words
    return (REPO / words[0], words[1:]) if words[0].startswith('tools/') else None


def expanded(text):
    """`a/{b,c}.py` as `a/b.py` and `a/c.py`."""
    match = re.search(r'\{([^{}]*)\}', text)
    if not match:
        return [text]
    return [
        one for part in match[1].split(',') for one in expanded(text[: match.start()] + part + text[match.end() :])
    ]


COMMANDS = list(documented())


@pytest.mark.parametrize(('place', 'words'), COMMANDS, **ids)
def test_every_command_is_one(place, words, capsys):
    if found := tool_of(words):
        tool, arguments = found
        try:
            args = parser_of(tool).parse_args(arguments)
        except SystemExit:
            pytest.fail(f'{place}: {shlex.join(words)}\n{capsys.readouterr().err}')
        check_values(args)
        assert words[0] != 'vit22b-dense' or words[0] in PROJECT['scripts']
    elif words[0] == 'make':
        targets = re.findall(r'^([\w-]+):', (REPO / 'Makefile').read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:2] == ['pip', 'install']:
        extras = re.search(r'\[(.*)\]', words[-1])[1].split(',')
        assert set(extras) <= set(PROJECT['optional-dependencies'])
    else:
        assert words == ['source', '.venv/bin/activate'], 'mark what cannot be checked'


def check_values(args):
    """Configs exist, take their axes and overrides; backbones of a few-shot table exist."""
    config = getattr(args, 'config', None)
    if config is None or '/' not in config:  # the user's own, a copy of one of ours
        return
    config = f'configs/{config.removeprefix("configs/")}'
    axes = {axis: getattr(args, axis, None) for axis in AXES}
    overrides = getattr(args, 'cfg_options', None) or {}
    if isinstance(overrides, list):
        overrides = parse_overrides(overrides)
    load_config(REPO / config, axes, overrides)
    known = axis_values(REPO / config, 'backbone')
    for backbone in getattr(args, 'backbones', []):
        assert re.split('[=:]', backbone)[0] in known


def test_there_are_commands_of_every_page_that_has_some():
    """The patterns find what they are to find."""
    counts = {page.name: sum(place == page for place, _ in COMMANDS) for page in PAGES}
    assert counts['README.md'] >= 12
    assert all(counts[f'{name}.md'] for name in ('index', 'data', 'fewshot', 'depth', 'backbones', 'checkpoints'))
    assert sum(place in LEAVES for place, _ in COMMANDS) == len(LEAVES)


@pytest.mark.parametrize('page', PAGES, **ids)
def test_every_block_has_a_language_and_its_python_imports_what_exists(page):
    text = page.read_text()
    blocks = BLOCK.findall(text)
    assert text.count('\n```') == 2 * len(blocks)
    for _, language, code in blocks:
        assert language in ('bash', 'python', 'text')
        for node in ast.walk(ast.parse(code if language == 'python' else '')):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                assert all(importlib.import_module(alias.name) for alias in node.names)


@pytest.mark.parametrize('page', PAGES, **ids)
def test_every_file_and_flag_that_is_named_exists(page):
    text = page.read_text()
    for name in (name for match in FILE.findall(text) for name in expanded(match)):
        assert list(REPO.glob(name)), f'{page.name} names {name}'
    flags = {flag for tool in TOOLS for action in parser_of(tool)._actions for flag in action.option_strings}
    assert set(FLAG.findall(text)) <= flags


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r'^#+ (.+)$', BLOCK.sub('', page.read_text()), re.MULTILINE)
    return {re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize('page', PAGES, **ids)
def test_every_relative_link_resolves(page):
    for link in LINK.findall(BLOCK.sub('', page.read_text())):
        if re.match(r'https?://', link):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f'{page.name} links to {link}'
        assert not anchor or anchor in anchors(target), f'{page.name} links to {link}'


def test_the_site_has_every_page_and_every_public_name():
    site = yaml.safe_load((REPO / 'mkdocs.yml').read_text())
    assert sorted(path for entry in site['nav'] for path in entry.values()) == [p.name for p in PAGES[2:]]
    names = re.findall(r'^::: (\S+)$', (REPO / 'docs/api.md').read_text(), re.MULTILINE)
    for name in names:
        module, _, attribute = name.rpartition('.')
        assert getattr(importlib.import_module(module), attribute).__doc__
    package = importlib.import_module('vit22b_dense')
    public = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    assert public <= {name.rpartition('.')[2] for name in names}
