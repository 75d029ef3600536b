import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmseg.datasets import ADE20KDataset

from vit22b_dense import FewShotSubset

FRACTIONS = ['1/16', '1/8', '1/4', '1/2', 1]


class Named(BaseDataset):
    """A data set that is only names, below whatever root."""

    METAINFO = dict(classes=('a', 'b'))

    def __init__(self, names, root='data', **extra):
        self.names, self.extra = names, extra
        super().__init__(data_root=root, serialize_data=False)

    def load_data_list(self):
        return [dict(img_path=f'{self.data_root}/{n}', **{k: f(n) for k, f in self.extra.items()}) for n in self.names]

    def prepare_data(self, idx):
        return self.get_data_info(idx)['img_path']


ADE_NAMES = [f'images/training/ADE_train_{i:08d}.jpg' for i in range(1, 20211)]


def chosen(dataset, fraction, seed=0, **options) -> list[str]:
    subset = FewShotSubset(dataset, fraction, seed, **options)
    return [subset[i].split('/', 1)[1] for i in range(len(subset))]


def test_counts_for_ade20k_and_nested_for_every_pair():
    dataset = Named(ADE_NAMES)
    for seed in (0, 1):
        subsets = [set(chosen(dataset, f, seed)) for f in FRACTIONS]
        assert [len(s) for s in subsets] == [1263, 2526, 5052, 10105, 20210]
        for small, large in itertools.combinations(subsets, 2):
            assert small < large
    assert len(set(chosen(dataset, '1/16', 0)) & set(chosen(dataset, '1/16', 1))) < 200  # 79 expected by chance


def test_the_definition_written_out():
    names = [f'img/{i}.jpg' for i in range(50)]
    order = sorted(names, key=lambda n: hashlib.sha256(f'7:{n}'.encode()).hexdigest())
    assert chosen(Named(names), '1/8', 7) == sorted(order[:6])


def test_order_of_files_and_root_play_no_part():
    names = [f'img/{i}.jpg' for i in range(40)]
    assert chosen(Named(names), 0.25) == chosen(Named(names[::-1], root='elsewhere'), '1/4')


@pytest.mark.parametrize('locale', ['C', 'C.UTF-8'])
def test_another_process_locale_root_and_order_of_files(ade_root, tmp_path, locale):
    script = (
        'import random, sys, vit22b_dense\n'
        'from mmseg.datasets import ADE20KDataset\n'
        'from vit22b_dense import FewShotSubset\n'
        # mmseg sorts what it finds in a folder; here the order is lost again
        'class Shuffled(ADE20KDataset):\n'
        '    def load_data_list(self):\n'
        '        found = super().load_data_list()\n'
        '        return random.Random(int(sys.argv[2])).sample(found, len(found))\n'
        "d = Shuffled(data_root=sys.argv[1], data_prefix=dict(img_path='images/training'))\n"
        "s = FewShotSubset(d, '1/2')\n"
        "print([s.get_data_info(i)['img_path'].split('/')[-1] for i in range(len(s))])"
    )
    moved = shutil.copytree(ade_root, tmp_path / 'ünder' / 'ade')
    output = subprocess.run(
        [sys.executable, '-c', script, moved, '1'], env=dict(os.environ, LC_ALL=locale, PYTHONHASHSEED='1'),
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()[-1]  # fmt: skip
    here = ADE20KDataset(data_root=str(ade_root), data_prefix=dict(img_path='images/training'))
    subset = FewShotSubset(here, '1/2')
    assert output == str([Path(subset.get_data_info(i)['img_path']).name for i in range(len(subset))])
    assert output.count('.jpg') == 3


def test_segments_never_straddle():
    names = [f'seg{s}/{t}.jpg' for s in range(16) for t in range(10)]
    dataset = Named(names, segment=lambda name: name.split('/')[0])
    kept = chosen(dataset, '1/4', unit='segment')
    assert len(kept) == 40
    assert len({name.split('/')[0] for name in kept}) == 4
    assert len({name.split('/')[0] for name in chosen(dataset, '1/4')}) > 4
    dataset.few_shot_unit = 'segment'
    assert chosen(dataset, '1/4') == kept
    assert len({name.split('/')[0] for name in chosen(dataset, '1/4', unit='frame')}) > 4


def test_at_least_one():
    assert len(chosen(Named(['a/1.jpg', 'a/2.jpg']), '1/16')) == 1


@pytest.mark.parametrize('fraction', [0, -0.5, 1.01, '17/16', 'half', '', None, float('nan'), True, '1/0'])
def test_other_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match=r'\(0, 1\]'):
        FewShotSubset(Named(['a/1.jpg']), fraction)


def test_clear_errors_for_empty_data_and_a_missing_unit():
    with pytest.raises(ValueError, match='finds no images'):
        FewShotSubset(Named([]), '1/2')
    with pytest.raises(ValueError, match="unit='drive'"):
        FewShotSubset(Named(['a/1.jpg']), '1/2', unit='drive')
    with pytest.raises(TypeError, match='other wrappers around the subset'):
        FewShotSubset(RepeatDataset(Named(['a/1.jpg']), 2), '1/2')


def test_lives_inside_and_around_mmengine_wrappers(ade_root):
    cfg = dict(type='ADE20KDataset', data_root=str(ade_root), data_prefix=dict(img_path='images/training'))
    subset = FewShotSubset(cfg, '1/2')
    assert subset.metainfo['classes'] == ADE20KDataset.METAINFO['classes']
    assert len(subset) == 3
    half, sixth = (dict(type='FewShotSubset', dataset=cfg, fraction=f) for f in ('1/2', '1/6'))
    assert len(RepeatDataset(half, 4)) == 12  # mmengine's wrappers take other wrappers as configs
    assert len(ConcatDataset([half, sixth])) == 4
    both = ConcatDataset([Named(['a/1.jpg', 'a/2.jpg']), Named(['b/1.jpg', 'b/2.jpg'])])
    assert len(FewShotSubset(both, '3/4')) == 3


def test_lazy_initialisation_is_kept(ade_root):
    lazy = ADE20KDataset(data_root=str(ade_root), data_prefix=dict(img_path='images/training'), lazy_init=True)
    subset = FewShotSubset(lazy, '1/2')
    assert not lazy._fully_initialized
    assert len(subset) == 3
