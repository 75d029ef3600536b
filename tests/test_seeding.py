import pickle
import random

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from torch.utils.data import DataLoader

from vit22b_dense.datasets.seeding import Draw, SeededDataset, SeededInfiniteSampler, random_state_of


class Noise(BaseDataset):
    """Each sample is its index and one number from each global generator."""

    def load_data_list(self):
        return [dict(number=i) for i in range(7)]

    def prepare_data(self, idx):
        return [idx, random.random(), np.random.rand(), torch.rand(1).item()]


def stream(workers: int, count: int, skip: int = 0, seed: int = 3) -> list:
    dataset = SeededDataset(Noise())
    sampler = SeededInfiniteSampler(dataset, seed=seed)
    if skip:
        sampler.skip(skip)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=list)
    iterator = iter(loader)
    return [sample for _ in range(count // 2) for sample in next(iterator)]


def test_the_number_of_workers_does_not_matter():
    alone = stream(0, 20)
    assert alone == stream(1, 20) == stream(3, 20)
    assert alone != stream(0, 20, seed=4)


def test_each_draw_of_one_sample_is_different():
    draws = [values for index, *values in stream(0, 28) if index == 2]
    assert len(draws) == 4
    assert len({tuple(d) for d in draws}) == 4


def test_skipping_continues_the_stream():
    assert stream(2, 20)[8:] == stream(2, 12, skip=8)


def test_the_state_outside_is_untouched():
    for seed_all in (random.seed, np.random.seed, torch.manual_seed):
        seed_all(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    for seed_all in (random.seed, np.random.seed, torch.manual_seed):
        seed_all(1)
    with random_state_of((5, 6)):
        random.random(), np.random.rand(), torch.rand(1)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_a_draw_survives_pickling():
    draw = pickle.loads(pickle.dumps(Draw(4, (3, 9))))
    assert (draw, draw.entropy) == (4, (3, 9))


def test_by_plain_index_it_is_like_any_other_data_set_and_says_so_once(monkeypatch):
    seen, said = [], []
    monkeypatch.setattr('vit22b_dense.datasets.seeding.print_log', lambda text, **_: said.append(text))
    for dataset in (Noise(), SeededDataset(Noise())):
        for seed_all in (random.seed, np.random.seed, torch.manual_seed):
            seed_all(1)
        seen.append([dataset[i] for i in range(len(dataset))])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 7
    assert len(said) == 1
    assert 'SeededInfiniteSampler' in said[0]
