"""The HTML page: what it shows is what lies in the folders, and it needs nothing else."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vit22b_dense.errors import UserError
from vit22b_dense.evaluation.report import group_tables, loss_figures, render
from vit22b_dense.evaluation.runs import find_runs, read_run
from vit22b_dense.fewshot.report import section
from vit22b_dense.fewshot.table import CellResult, to_csv

VOID = {'meta', 'link', 'img', 'br'}


class Page(HTMLParser):
    """Tables as rows of text, every address, pictures, and whether the tags close."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.images, self.open, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [value for name, value in attributes.items() if name in ('src', 'href', 'xlink:href')]
        if tag == 'img':
            self.images.append((attributes['alt'], attributes['src']))
        if tag == 'table':
            self.tables.append([])
        if tag == 'tr':
            self.tables[-1].append([])
        if tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ('src', 'href', 'xlink:href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {'td', 'th'} & set(self.open[-1:]):
            self.tables[-1][-1][-1] += data


def page_of(folders, title=None):
    return render([section(folder) for folder in folders], title)


def make_run(folder, scores, losses=((1, 2.0), (2, 1.0)), shade=100, metric='mIoU', test='test', **more):
    """A folder as tools/train.py and tools/test.py leave it."""
    log = folder / '20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(''.join(json.dumps(dict(loss=loss, step=step)) + '\n' for step, loss in losses))
    (folder / 'linear.py').write_text("model = dict(type='<b>EncoderDecoder</b>')\n")
    examples = []
    (folder / test / 'examples').mkdir(parents=True)
    for n, rank in enumerate(('best', 'median', 'worst')):
        Image.fromarray(np.full((60, 1600, 3), shade + 20 * n, np.uint8)).save(folder / test / f'examples/{rank}.png')
        examples.append(dict(rank=rank, image=f'/data/{n}.jpg', metric=metric, score=40.0 - n, picture=f'{rank}.png'))
    record = dict(
        config='linear.py', checkpoint=str(folder / 'iter_2.pth'), scores=scores, examples=examples,
        versions=dict(python='3.11.7', torch='2.13.0'), **more,
    )  # fmt: skip
    (folder / test / 'scores.json').write_text(json.dumps(record))
    return folder


@pytest.fixture
def few_shot(tmp_path):
    cells = []
    for n, (fraction, seed) in enumerate([('1/16', 0), ('1/16', 1), ('1', 0), ('1', 1)]):
        folder = f'tiny/{fraction.replace("/", "_")}/seed{seed}'
        scores = {'mIoU': 20.0 + n, 'aAcc': 60.0, 'majority/mIoU': 2.5, 'IoU/road': 70.0 + n, 'IoU/<sky>': 0.0}
        status = 'finished' if n < 3 else 'failed'
        scores = scores if n < 3 else {}
        cells.append(
            CellResult(
                'tiny', fraction, seed, 6, 25, status, 'BaseSegDataset', 'ab', folder, 'linear.py', scores=scores
            )
        )
        if n < 3:
            make_run(tmp_path / 'fewshot' / folder, scores, shade=50 * n)
    (tmp_path / 'fewshot/table.csv').write_text(to_csv(cells))
    return tmp_path / 'fewshot'


def test_few_shot_page_shows_the_scores_classes_and_pictures_of_its_folders(few_shot):
    text = page_of([few_shot], 'A <title>')
    page = Page(text)
    assert ['tiny', '20.50 ± 0.71', '22.00 (1 of 2 seeds; failed)'] in page.tables[0]
    classes = next(table for table in page.tables if table[0][0] == 'class, IoU (%)')
    assert classes == [['class, IoU (%)', '1/16', 'all'], ['road', '70.5', '72.0'], ['<sky>', '0.0', '0.0']]
    assert ['ViT-22B (published)', '44.7', '47.2', '50.6', '52.5', '54.9'] in page.tables[2]
    assert any('tiny, failed: all seed 1' in part for part in page.text)
    assert 'A <title>' in page.text
    assert '<b>EncoderDecoder' not in text
    assert page.tables[-1] == [['package', 'version'], ['python', '3.11.7'], ['torch', '2.13.0']]
    # the first seed's pictures of each fraction, shrunk, with their own colours
    assert [alt for alt, _ in page.images[:2]] == ['best: 0.jpg, mIoU 40', 'median: 1.jpg, mIoU 39']
    assert len(page.images) == 6
    for (_, uri), shade in zip(page.images, (0, 20, 40, 100, 120, 140), strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix('data:image/jpeg;base64,'))))
        assert image.width == 1000
        assert abs(int(np.asarray(image)[10, 10, 0]) - shade) <= 2
    # those of all the data are shown at once
    assert re.findall(r'<details( open)?><summary>(tiny, .*?)</summary>', text)[:2] == [
        ('', 'tiny, 1/16, seed 0'), (' open', 'tiny, all, seed 0'),
    ]  # fmt: skip
    assert text == page_of([few_shot], 'A <title>')


def test_the_page_needs_no_other_file(few_shot):
    text = page_of([few_shot], 'title')
    page = Page(text)
    inner = re.sub(r'(xmlns(:\w+)?|<rdf:|rdf:resource)="[^"]*"', '', text)
    assert all(address.startswith(('data:', '#')) for address in page.addresses)
    assert not re.findall(r'url\((?!#)|@import|<script|https?://(?!creativecommons|purl|www\.w3)', inner)


def test_bars_are_as_long_as_the_values(few_shot):
    shares = re.findall(r'--share:([\d.]+)%">([\d.]+)<', page_of([few_shot], 'title'))
    assert [(float(a), float(b)) for a, b in shares] == [(70.5, 70.5), (72.0, 72.0), (0, 0), (0, 0)]


def test_a_page_is_called_after_what_was_run(few_shot, tmp_path):
    make_run(tmp_path / 'runs/one', {'mIoU': 21.3})
    page = page_of([few_shot, tmp_path / 'runs'])
    assert '<title>Few-shot results: linear.py; Runs in runs</title>' in page
    assert '<h2>Runs in runs</h2>' in page
    alone = page_of([few_shot])
    assert '<h1>Few-shot results: linear.py</h1>' in alone
    assert '<h2>' not in alone


def test_a_fraction_has_one_colour_and_place_in_all_figures_of_losses(tmp_path):
    runs = {name: read_run(make_run(tmp_path / name, {'mIoU': 1.0})) for name in ('1/16', 'all')}
    (both,) = loss_figures('', [*runs.items()], list(runs))
    (one,) = loss_figures('', [('all', runs['all'])], list(runs))
    colours = [re.findall(r'stroke: (#(?:1f77b4|ff7f0e))', figure) for figure in (both, one)]
    assert [list(dict.fromkeys(found)) for found in colours] == [['#1f77b4', '#ff7f0e'], ['#ff7f0e']]
    assert loss_figures('', [], list(runs)) == []


def test_depth_is_told_by_distance():
    scores = {'pixel/abs_rel': 0.3, '0-20m/pixel/abs_rel': 0.1, '20-40m/pixel/abs_rel': 0.4, '0-20m/pixel/rmse': 9}
    (table,) = group_tables('run', {'a': [scores], 'b': [{'0-20m/pixel/abs_rel': 0.2}, {'0-20m/pixel/abs_rel': 0.3}]})
    assert table.rows == [
        ['ground truth, abs_rel', 'a', 'b'], ['0-20m', '0.100', '0.250'], ['20-40m', '0.400', '–'],
    ]  # fmt: skip
    assert table.shades == [[None, 0.25, 0.625], [None, 1.0, None]]
    assert group_tables('run', {'a': [{'mIoU': 3.0}]}) == []


def test_a_class_that_no_image_shows_has_no_score_and_no_bar():
    nan = float('nan')
    seeds = [{'IoU/road': 40.0, 'IoU/bus': nan, 'IoU/sky': nan}, {'IoU/road': 60.0, 'IoU/bus': 10.0, 'IoU/sky': nan}]
    (table,) = group_tables('run', {'a': seeds})
    assert table.rows[1:] == [['road', '50.0'], ['bus', '10.0'], ['sky', '–']]
    assert table.shades == [[None, 0.5], [None, 0.1], [None, None]]
    (table,) = group_tables('run', {'a': [{'40-80m/pixel/abs_rel': nan, '0-20m/pixel/abs_rel': 0.5}]})
    assert table.shades == [[None, None], [None, 1.0]]


def test_single_runs_in_one_folder(tmp_path):
    make_run(tmp_path / 'runs/one', {'mIoU': 21.3, 'IoU/road': 50.0})
    make_run(tmp_path / 'runs/two', {'mIoU': 49.82, 'IoU/road': 80.0}, test='.', train_loss=0.25)
    log = tmp_path / 'runs/three/20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "step": 1}\n{"loss": 0.5, "st')
    page = Page(page_of([tmp_path / 'runs'], 'title'))
    assert page.tables[0] == [
        ['run', 'mIoU', 'training loss at the end'], ['one', '21.3', '–'], ['two', '49.82', '0.25'],
    ]  # fmt: skip
    assert any('three: not tested' in part for part in page.text)
    assert ['road', '50.0', '80.0'] in page.tables[1]


def test_runs_on_different_test_data_are_marked(tmp_path):
    for name, data in (('one', 'aa'), ('two', 'bb')):
        make_run(tmp_path / f'runs/{name}', {'mIoU': 21.3}, data=data)
    page = Page(page_of([tmp_path / 'runs'], 'title'))
    assert page.tables[0] == [['run', 'mIoU', 'data'], ['one', '21.3', 'aa'], ['two', '21.3', 'bb']]
    assert any('not comparable' in part for part in page.text)


def test_segmentation_and_depth_in_one_folder_have_tables_of_their_own(tmp_path):
    make_run(tmp_path / 'runs/seg', {'mIoU': 21.3, 'majority/mIoU': 2.5, 'majority/aAcc': 9.0, 'IoU/road': 50.0})
    scores = {'abs_rel': 0.2, 'pixel/abs_rel': 0.3, 'image/abs_rel': 0.2, 'mean_depth/rmse': 14.0}
    scores |= {'0-20m/pixel/abs_rel': 0.1, '0-20m/image/abs_rel': 0.4}
    make_run(tmp_path / 'runs/depth', scores | {'images': 8}, metric='abs_rel')
    tables = Page(page_of([tmp_path / 'runs'], 'title')).tables
    assert tables[:4] == [
        [['run', 'mIoU', 'majority/mIoU'], ['seg', '21.3', '2.5']],
        [['run', 'abs_rel', 'mean_depth/rmse'], ['depth', '0.2', '14']],
        [['class, IoU (%)', 'seg'], ['road', '50.0']],
        [['ground truth, abs_rel', 'depth'], ['0-20m', '0.400']],
    ]


def test_many_classes_are_folded_away(tmp_path):
    make_run(tmp_path / 'run', {'mIoU': 21.3} | {f'IoU/{n}': float(n) for n in range(60)})
    assert '<summary>60 rows: class, IoU (%)</summary>' in page_of([tmp_path / 'run'], 'title')


def test_a_test_elsewhere_finds_its_training(tmp_path):
    run = make_run(tmp_path / 'run', {'mIoU': 21.3})
    shutil.move(run / 'test', tmp_path / 'tested')
    assert read_run(tmp_path / 'tested').folder == run
    assert read_run(tmp_path / 'tested').losses == [(1, 2.0), (2, 1.0)]
    (found,) = find_runs(tmp_path)
    assert found.scores == {'mIoU': 21.3}


def test_losses_of_a_resumed_run_are_those_logged_last(tmp_path):
    run = make_run(tmp_path / 'run', {'mIoU': 1.0}, losses=((1, 3.0), (2, 9.0)))
    later = run / '20260102_000000/vis_data/scalars.json'
    later.parent.mkdir(parents=True)
    later.write_text('{"loss": 2.0, "step": 2}\n{"mIoU": 1.0, "step": 3}\n')
    assert read_run(run).losses == [(1, 3.0), (2, 2.0)]


def test_what_is_no_run_is_named(tmp_path, few_shot):
    with pytest.raises(UserError, match='absent: no such folder'):
        page_of([tmp_path / 'absent'], 'title')
    (tmp_path / 'nothing').mkdir()
    with pytest.raises(UserError, match='nothing: contains no run'):
        page_of([tmp_path / 'nothing'], 'title')
    path = few_shot / 'tiny/1/seed0/test/scores.json'
    record = json.loads(path.read_text())
    del record['examples'][0]['score']
    for text in ('[]', json.dumps(record)):
        path.write_text(text)
        with pytest.raises(UserError, match=r'scores.json: not written by tools/test.py'):
            page_of([few_shot], 'title')


def test_a_picture_that_is_gone_is_named(few_shot):
    (few_shot / 'tiny/1/seed0/test/examples/best.png').unlink()
    with pytest.raises(UserError, match=r'best.png: the picture cannot be read .* run tools/test.py again'):
        page_of([few_shot], 'title')


def test_the_tool_writes_the_page(few_shot, run_tool, tmp_path):
    done = run_tool('tools/report.py', few_shot, '--out', tmp_path / 'deep/report.html', fresh=True)
    assert (tmp_path / 'deep/report.html').read_text() == page_of([few_shot])
    assert 'report.html: ' in done.stdout
    bad = run_tool('tools/report.py', few_shot, '--out', few_shot / 'table.csv/report.html', check=False)
    assert bad.returncode == 1
    assert 'cannot be written' in bad.stderr


@pytest.mark.skipif(shutil.which('chromium') is None, reason='no chromium to look at the page with')
@pytest.mark.parametrize('width', [360, 1200])
def test_in_a_browser_nothing_is_wider_than_the_screen(few_shot, tmp_path, width):
    measure = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        'document.body.dataset.found = [document.documentElement.scrollWidth, all.length,'
        'all.filter(i => i.complete && i.naturalWidth).length,'
        "getComputedStyle(document.querySelector('.hint')).display].join(' ') })</script>"
    )
    text = page_of([few_shot], 'title').replace('loading="lazy"', '').replace('</body>', f'{measure}</body>')
    (tmp_path / 'page.html').write_text(text)
    # chromium's window has a least width; a frame has none
    frame = f'<iframe id="f" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
    tell = "addEventListener('load', () => document.body.append('FOUND ' + f.contentDocument.body.dataset.found))"
    (tmp_path / 'frame.html').write_text(f'<body>{frame}<script>{tell}</script></body>')
    options = ['headless', 'no-sandbox', 'disable-gpu', 'no-first-run', 'disable-background-networking', 'dump-dom']
    options += ['allow-file-access-from-files', 'window-size=1400,1000', f'user-data-dir={tmp_path / "profile"}']
    command = ['chromium', *(f'--{option}' for option in options), (tmp_path / 'frame.html').as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *numbers, hint = re.search(r'FOUND (\d+) (\d+) (\d+) (\w+)', done.stdout).groups()
    scroll, images, shown = map(int, numbers)
    assert scroll <= width
    assert images == shown == 6
    assert hint == ('block' if width < 600 else 'none'), 'pictures that go on beyond the screen say so'
