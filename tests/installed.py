"""The package as pip installs it, in a folder of its own, away from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

SOURCES = (
    'vit22b_dense',
    'configs',
    'tools',
    'pyproject.toml',
    'README.md',
    'LICENSE',
    'vit22b_dense_cli.py',
    'vit22b_dense_interrupt.py',
)


class Installed:
    """A wheel of the checkout, installed into FOLDER/site; commands run in FOLDER/empty."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip('setuptools', minversion='77')
        source, self.site, self.cwd = folder / 'source', folder / 'site', folder / 'empty'
        for name in SOURCES:  # a copy, since a build leaves files beside its sources
            path, copy = REPO / name, source / name
            if path.is_dir():
                shutil.copytree(path, copy, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(path, copy)
        pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
        wheel = ['wheel', '--no-index', '--no-deps', '--no-build-isolation', '--wheel-dir', folder, source]
        subprocess.run([*pip, *wheel], check=True, cwd=folder)
        (self.wheel,) = folder.glob('*.whl')
        shutil.rmtree(source)
        target = ['install', '--no-index', '--no-deps', '--no-compile', '--target', self.site, self.wheel]
        subprocess.run([*pip, *target], check=True, cwd=folder)
        self.cwd.mkdir()

    def run(self, *command, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        """Run a command with the installed package; the first word may be one of its own commands."""
        script, *arguments = map(str, command)
        own = self.site / 'bin' / script
        done = subprocess.run(
            [sys.executable, own, *arguments] if own.is_file() else [script, *arguments],
            cwd=self.cwd,
            env=dict(os.environ, PYTHONPATH=str(self.site), **env),
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f'{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
        return done
