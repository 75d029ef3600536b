"""The few-shot table and curve from scores that are known."""

import statistics
from dataclasses import replace

import pytest
from conftest import REPO, SHARED
from matplotlib.figure import Figure

from vit22b_dense.engine.config import load_config
from vit22b_dense.errors import UserError
from vit22b_dense.fewshot import published
from vit22b_dense.fewshot.curve import draw_curve, plot_cells
from vit22b_dense.fewshot.table import CellResult, from_csv, markdown, mean_and_std, table_rows, to_csv

IMAGES = {'1/16': 6, '1/2': 46, '1': 92}


def cell(backbone, fraction, seed, scores=None, status='finished', data_set='BaseSegDataset', deviations=''):
    folder = f'{backbone}/{fraction.replace("/", "_")}/seed{seed}'
    return CellResult(
        backbone,
        fraction,
        seed,
        IMAGES[fraction],
        25,
        status,
        data_set,
        f'{seed:064x}',
        folder,
        'linear.py frozen',
        deviations=deviations,
        scores=scores or {},
    )


def seg(miou, **more):
    return {'mIoU': miou, 'aAcc': 2 * miou, 'majority/mIoU': 2.67, **more}


CELLS = [
    *(cell('good', '1/16', seed, seg(value)) for seed, value in enumerate((28.0, 30.0, 29.5))),
    *(cell('good', '1', seed, seg(value)) for seed, value in enumerate((50.0, 50.5, 49.0))),
    cell('bad', '1/16', 0, status='failed'),
    cell('bad', '1', 0, seg(9.0)),
    cell('bad', '1', 1, status='not run'),
]


def test_entries_are_mean_and_sample_deviation_and_mark_what_is_missing():
    header, good, bad = table_rows(CELLS, 'mIoU')
    assert header == ['backbone', '1/16 (6 images)', 'all (92 images)']
    std = statistics.stdev((28.0, 30.0, 29.5))
    assert good[1] == f'29.17 ± {std:.2f}'
    assert (3 - 1) * std**2 == pytest.approx(sum((x - 87.5 / 3) ** 2 for x in (28.0, 30.0, 29.5)))
    assert bad[1:] == ['failed', '9.00 (1 of 2 seeds; not run)']
    assert mean_and_std([3.0]) == (3.0, None)


def test_markdown_has_both_scores_the_constant_answer_and_the_published_rows_marked():
    text = markdown(CELLS, 'A title')
    assert text.startswith('# A title\n')
    assert '| good | 29.17 ± 1.04 | 49.83 ± 0.76 |' in text
    assert '| good | 58.33 ± 2.08 | 99.67 ± 1.53 |' in text
    assert 'Majority class everywhere: 2.67' in text
    assert '| ViT-22B (published) | 44.7 | 47.2 | 50.6 | 52.5 | 54.9 |' in text
    assert 'not measured here' in text
    assert 'another data set' in text
    ade = markdown([cell('good', '1', 0, seg(50.0), data_set='ADE20KDataset')], 'A title')
    assert 'another data set' not in ade


def test_published_rows_are_those_of_the_source():
    source = SHARED.parent / 'PAPER.md'
    if not source.exists():
        pytest.skip('the notes on the papers are not here')
    lines = source.read_text().splitlines()
    for name, row in published.ROWS.items():
        line = [line for line in lines if line.startswith(f'| {name}') and line.count('|') == 7][-1]
        assert [float(v) for v in line.split('|')[2:7]] == list(row.values())
        assert list(row) == ['1/16', '1/8', '1/4', '1/2', '1']


def test_what_differs_from_the_published_protocol_is_named_once(tmp_path):
    different = 'drop path 0 instead of 0.4; batch 2 images'
    cells = [cell('a', '1', seed, seg(50.0), deviations=different) for seed in (0, 1)]
    text = markdown(cells, 'A title')
    assert 'The runs here differ from that protocol: drop path 0 instead of 0.4; batch 2 images.' in text
    assert 'The runs here differ' not in markdown(CELLS, 'A title')
    before = [line.split(',') for line in to_csv(CELLS).splitlines()]
    column = before[0].index('deviations')
    text = '\n'.join(','.join(line[:column] + line[column + 1 :]) for line in before)
    (tmp_path / 'before.csv').write_text(text)
    assert from_csv(tmp_path / 'before.csv') == CELLS


def test_settings_are_compared_with_the_published_ones():
    leaf = str(REPO / 'configs/ade20k/linear.py')
    published_run = dict(regime='finetune', backbone='vit22b_base', fraction='1/16')
    drop_path = 'drop path 0 instead of 0.4'
    assert published.deviations(load_config(leaf, published_run)) == [drop_path]
    assert published.deviations(load_config(leaf, published_run, {'model.backbone.drop_path_rate': 0.4})) == []
    changes = {
        'train_dataloader.batch_size': 4,
        'train_cfg.max_iters': 50,
        'model.test_cfg.mode': 'slide_flip',
        'model.test_cfg.stride': (336, 336),
        'optim_wrapper.optimizer.lr': 1e-3,
    }
    cfg = load_config(leaf, published_run, changes)
    cfg.train_dataloader.dataset.dataset.dataset.pipeline.pop()  # packing is no augmentation
    cfg.train_dataloader.dataset.dataset.dataset.pipeline.pop()
    assert published.deviations(cfg) == [
        'augmentation RandomResize (0.5 to 2), RandomCrop, RandomFlip instead of RandomResize (0.5 to 2), RandomCrop, '
        'RandomFlip, PhotoMetricDistortion',
        'batch 4 images instead of 16 images',
        'iterations 800 times the fraction instead of 80000 times the fraction',
        'learning rate 0.001 instead of 4e-05',
        drop_path,
        'testing slide_flip, 504x504 px every 336x336 px instead of slide, 504x504 px every 322x322 px',
    ]
    frozen = published.deviations(load_config(leaf, dict(backbone='dinov2_small')))
    assert frozen[0] == 'training with a frozen backbone instead of end to end'
    assert published.deviations(load_config(str(REPO / 'configs/kitti/dpt.py'), {})) == []


def test_depth_has_its_own_scores_and_nothing_published():
    own = {'abs_rel': 0.3, 'rmse': 8.0, 'delta_1.25': 0.6}
    scores = own | {'image/abs_rel': 0.3, 'pixel/abs_rel': 0.2, 'mean_depth/abs_rel': 0.88}
    text = markdown([cell('good', '1', 0, scores)], 'Depth')
    assert '## abs_rel, lower is better' in text
    assert '| good | 0.300 |' in text
    assert "Mean depth everywhere: 0.880. Scores: mean of the images' own scores." in text
    assert 'published' not in text


def test_cells_on_different_test_data_are_marked():
    same = [replace(c, test_data='aa') for c in CELLS if c.scores]
    assert 'NOT COMPARABLE' not in markdown(same, 'title')
    other = [replace(same[0], test_data='bb'), *same[1:]]
    assert 'NOT COMPARABLE: cells were tested on different data (aa, bb in table.csv)' in markdown(other, 'title')


def test_the_training_loss_has_a_table_where_it_is_known():
    some = [replace(c, scores=c.scores | {'train/loss': 0.25 + c.seed}) for c in CELLS if c.scores]
    assert '## Training loss at the end\n\n| backbone' in markdown(some, 'title')
    assert '| good | 1.250 ± 1.000 | 1.250 ± 1.000 |' in markdown(some, 'title')
    assert 'Training loss' not in markdown(CELLS, 'title')


def test_csv_there_and_back(tmp_path):
    (tmp_path / 'table.csv').write_text(to_csv(CELLS))
    assert from_csv(tmp_path / 'table.csv') == CELLS
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(UserError, match=r'other.csv: not a table of tools/fewshot.py'):
        from_csv(tmp_path / 'other.csv')


def test_the_curve_goes_through_the_means_and_its_bars_are_the_deviations():
    axes = Figure().subplots()
    plot_cells(axes, CELLS)
    good = axes.containers[0]
    line, _, (bars,) = good
    assert line.get_xdata() == pytest.approx([1 / 16, 1])
    assert line.get_ydata() == pytest.approx([87.5 / 3, 149.5 / 3])
    for segment, values in zip(bars.get_segments(), ((28.0, 30.0, 29.5), (50.0, 50.5, 49.0)), strict=True):
        assert segment[1][1] - segment[0][1] == pytest.approx(2 * statistics.stdev(values))
    assert axes.get_legend_handles_labels()[1] == ['good', 'bad']


def test_a_lone_point_has_no_line_in_the_legend_and_colours_stay(tmp_path):
    axes = Figure().subplots()
    none = [cell('first', fraction, 0, status='failed') for fraction in ('1/16', '1')]
    plot_cells(axes, [*none, *(c for c in CELLS if c.backbone == 'good'), cell('lone', '1', 0, seg(9.0))])
    (good, lone), labels = axes.get_legend_handles_labels()
    assert labels == ['good', 'lone']
    assert [handle[0].get_linestyle() for handle in (good, lone)] == ['-', 'None']
    assert [handle[0].get_color() for handle in (good, lone)] == ['C1', 'C2']
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['1/16\n6 images', 'all\n92 images']


def test_published_curves_share_the_axes_only_on_their_own_data_set():
    axes = Figure().subplots()
    plot_cells(axes, [cell('good', f, 0, seg(50.0), data_set='ADE20KDataset') for f in ('1/16', '1')])
    labels = axes.get_legend_handles_labels()[1]
    assert labels[:1] == [f'{name} (published)' for name in published.ROWS][:1]
    assert len(labels) == 1 + len(published.ROWS)
    published_line = next(line for line in axes.lines if line.get_label() == 'ViT-22B (published)')
    assert list(published_line.get_ydata()) == [44.7, 47.2, 50.6, 52.5, 54.9]
    assert published_line.get_linestyle() == '--'


def test_the_curve_is_a_picture_and_the_same_each_time():
    assert draw_curve(CELLS)[:8] == b'\x89PNG\r\n\x1a\n'
    assert draw_curve(CELLS) == draw_curve(CELLS)
