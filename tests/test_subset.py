"""tools/subset.py on a made data set."""

import hashlib

import numpy as np
import pytest
from conftest import REPO
from PIL import Image

CONFIG = REPO / 'configs/ade20k/linear.py'


@pytest.fixture
def told(run_tool, ade_root):
    def tell(*arguments, check=True):
        return run_tool(
            'tools/subset.py', CONFIG, '--data-root', ade_root, '--fraction', '1/2', *arguments, check=check
        )

    return tell


def test_counts_digest_and_classes_are_those_of_the_files(told, ade_root, tmp_path):
    out = told('--write', tmp_path / 'list.txt').stdout
    names = (tmp_path / 'list.txt').read_text().split()
    assert '3 of 6 images (fraction 1/2, seed 0)' in out
    order = sorted(
        (f'images/training/{i:02d}.jpg' for i in range(6)), key=lambda n: hashlib.sha256(f'0:{n}'.encode()).digest()
    )
    assert names == sorted(order[:3])
    assert f'digest {hashlib.sha256("".join(f"{n}{chr(10)}" for n in names).encode()).hexdigest()}' in out
    labels = [np.asarray(Image.open(ade_root / f'annotations/training/{n[-6:-4]}.png')) for n in names]
    wall = sum(int((label == 1).sum()) for label in labels)
    row = next(line for line in out.splitlines() if '|            wall |' in line or ' wall |' in line)
    assert row.split('|')[2].strip() == f'{wall:,}'
    present = {int(v) for label in labels for v in np.unique(label) if v}
    assert f'{150 - len(present)} of 150 classes missing, {len(present)} rare' in out


def test_verify_tells_the_same_from_another(told, tmp_path):
    told('--write', tmp_path / 'list.txt')
    same = told('--verify', tmp_path / 'list.txt')
    assert 'the same subset' in same.stdout
    other = told('--seed', '1', '--verify', tmp_path / 'list.txt', check=False)
    assert other.returncode == 1
    assert 'another subset' in other.stdout
    assert 'only in the list' in other.stdout
    absent = told('--verify', tmp_path / 'absent.txt', check=False)
    assert absent.returncode == 1
    assert 'absent.txt: no such list' in absent.stderr
