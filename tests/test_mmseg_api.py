"""mmseg's own functions on configs and checkpoints of ours: `init_model`, `inference_model`, `MMSegInferencer`, …"""

import shutil

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import PixelData
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from mmseg_tools import CONFIGS, LEAVES, TASKS, make_data, one_thread
from PIL import Image
from safetensors.torch import load_file, save_file

from vit22b_dense.checkpoint import CheckpointError, read_checkpoint
from vit22b_dense.datasets import DataError
from vit22b_dense.engine.config import AXES, load_config
from vit22b_dense.engine.restore import load_model, reference_of, trained_alone
from vit22b_dense.evaluation.depth_panels import depth_panel
from vit22b_dense.evaluation.panels import segmentation_panel


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(params=TASKS)
def run(request, mmseg_runs):
    return mmseg_runs[request.param]


def expected_of(run, image):
    """The prediction ``(H, W)`` of our own loader and the config's own test pipeline."""
    cfg = load_config(run.dumped, {})
    model = load_model(cfg, run.checkpoint).eval()
    packed = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=image))
    with torch.no_grad():
        (sample,) = model.test_step({key: [value] for key, value in packed.items()})
    return prediction(sample)


def prediction(sample):
    (name,) = {'pred_sem_seg', 'pred_depth_map'} & set(sample.keys())
    return sample.get(name).data[0].numpy()


@pytest.fixture(scope='module')
def data_of(tmp_path_factory, mmseg_runs):
    """From a config to its tiny data; the runs' is taken where it fits."""
    made = {'ade20k': mmseg_runs['segmentation'].data, 'waymo': mmseg_runs['depth'].data}

    def data(leaf):
        kind = leaf.split('/')[0]
        if kind == 'demo':
            kind = 'ade20k' if leaf == TASKS['segmentation'] else 'waymo'
        if kind not in made:
            made[kind] = make_data(leaf, tmp_path_factory.mktemp('data'))
        return made[kind]

    return data


def load(leaf, **axes):
    return load_config(CONFIGS / leaf, {axis: dict(axes, backbone='vit22b_tiny').get(axis) for axis in AXES})


def test_inference_model_predicts_what_our_own_loader_does(run):
    stored = read_checkpoint(run.checkpoint)['state_dict']
    assert not any(name.startswith('backbone') for name in stored)
    model = init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    expected = expected_of(run, str(run.images[0]))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(prediction(inference_model(model, str(run.images[0]))), expected)
    first, second = inference_model(model, list(map(str, run.images[:2])))
    # two images at once are rounded otherwise
    np.testing.assert_allclose(prediction(first), expected, rtol=1e-4, atol=1e-5)
    assert prediction(second).shape == expected.shape
    # from here on mmseg has made the model's pipeline one for arrays
    np.testing.assert_array_equal(prediction(inference_model(model, mmcv.imread(str(run.images[0])))), expected)


def test_init_model_finds_the_backbone_or_says_what_is_wrong(run, tmp_path):
    model = init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    assert all(torch.equal(t, model.backbone.state_dict()[name]) for name, t in load_file(run.weights).items())
    moved = tmp_path / 'moved.safetensors'
    shutil.move(run.weights, moved)
    try:
        with pytest.raises(CheckpointError, match=r'weights\.safetensors'):
            init_model(str(run.dumped), str(run.checkpoint), device='cpu')
        other = {name: tensor + 1 for name, tensor in load_file(moved).items()}
        save_file(other, run.weights)
        with pytest.raises(CheckpointError, match=r'was trained on the frozen backbone .*weights\.safetensors'):
            init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    finally:
        shutil.move(moved, run.weights)


def test_random_backbones_are_drawn_again_from_their_seed(mmseg_runs, tmp_path):
    config, checkpoint = Config.fromfile(mmseg_runs['segmentation'].dumped), tmp_path / 'iter_1.pth'
    config.model.backbone.init_cfg = None
    model = init_model(config, device='cpu')
    with trained_alone(model, reference_of(model)):
        torch.save(dict(meta=dict(dataset_meta=None), state_dict=model.state_dict()), checkpoint)
    assert checkpoint.stat().st_size < 1e5
    torch.manual_seed(3)
    again, another = (init_model(config, path, device='cpu') for path in (str(checkpoint), None))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert not torch.equal(another.backbone.pos_embed, model.backbone.pos_embed)


def test_pytorch_too_loads_a_checkpoint_of_what_was_trained(run):
    """Strictly, into a model that learns, and with what the state dict itself has of the backbone."""
    cfg = Config.fromfile(run.dumped)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, frozen=False, init_cfg=None)))
    state = read_checkpoint(run.checkpoint)['state_dict']
    state['backbone.norm.weight'] = torch.full_like(model.backbone.norm.weight, 7)
    model.load_state_dict(state, strict=True)
    stored = load_file(run.weights)
    assert torch.equal(model.backbone.pos_embed, stored['pos_embed'])
    assert (model.backbone.norm.weight == 7).all()


def test_show_result_pyplot_draws_the_prediction(mmseg_runs):
    run = mmseg_runs['segmentation']
    model = init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    result, image = inference_model(model, str(run.images[0])), mmcv.imread(str(run.images[0]), channel_order='rgb')
    drawn = show_result_pyplot(model, str(run.images[0]), result, opacity=0.5, show=False, with_labels=False)
    colours = np.array(model.dataset_meta['palette'])[prediction(result)]
    assert np.abs(drawn - (image / 2 + colours / 2)).max() <= 1

    run = mmseg_runs['depth']
    model = init_model(str(run.dumped), str(run.checkpoint), device='cpu')
    result, image = inference_model(model, str(run.images[0])), mmcv.imread(str(run.images[0]), channel_order='rgb')
    drawn = show_result_pyplot(model, str(run.images[0]), result, show=False)
    assert drawn.shape == (2 * image.shape[0], image.shape[1], 3)  # the depth map below the image
    np.testing.assert_array_equal(drawn[: image.shape[0]], image)
    below, depth = drawn[image.shape[0] :].astype(float), prediction(result)
    assert np.abs(below[depth == depth.max()].mean(0) - below[depth == depth.min()].mean(0)).max() > 100


def test_the_inferencer_predicts_writes_and_draws(run, tmp_path):
    inferencer = MMSegInferencer(str(run.dumped), str(run.checkpoint), device='cpu', show_progress=False)
    found = inferencer(str(run.images[0]), out_dir=str(tmp_path), return_vis=True)
    expected = expected_of(run, str(run.images[0]))
    image = mmcv.imread(str(run.images[0]), channel_order='rgb')
    np.testing.assert_array_equal(found['predictions'], expected)
    if expected.dtype == np.int64:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'pred/00000000_pred.png')), expected)
        meta = inferencer.model.dataset_meta
        panel = segmentation_panel(image, expected, None, meta['classes'], meta['palette'])
    else:
        np.testing.assert_array_equal(np.load(tmp_path / 'pred/00000000_pred.npy'), expected)
        panel = depth_panel(image, expected, None, 80)
    np.testing.assert_array_equal(found['visualization'], panel)
    unnamed = inferencer(str(run.images[0]), return_vis=True, with_labels=False)['visualization']
    assert (len(unnamed) < len(panel)) == (expected.dtype == np.int64)  # a legend less
    drawn = mmcv.imread(next((tmp_path / 'vis').iterdir()), channel_order='rgb')
    assert np.abs(drawn - panel.astype(float)).mean() < 3  # JPEG
    np.testing.assert_array_equal(inferencer(mmcv.imread(str(run.images[0])))['predictions'], expected)
    with pytest.raises(DataError, match='absent'):
        inferencer(str(tmp_path / 'absent.jpg'))


def test_the_inferencer_needs_no_more_than_a_checkpoint(run):
    found = MMSegInferencer(None, str(run.checkpoint), device='cpu', show_progress=False)(str(run.images[0]))
    np.testing.assert_array_equal(found['predictions'], expected_of(run, str(run.images[0])))


@pytest.mark.parametrize('leaf', LEAVES)
def test_every_config_has_what_mmseg_asks_for(leaf, data_of):
    """A pipeline for single images, for the inferencer, and for test-time augmentation, where labels are there too."""
    data = data_of(leaf)
    cfg = load(leaf, data_root=str(data))
    path = str(
        next(data.rglob('*.jpg'), None)
        or next(p for p in data.rglob('*.png') if {'raw', 'leftImg8bit'} & set(p.parts))
    )
    single = Compose(cfg.test_pipeline)(dict(img_path=path))
    assert 'gt_sem_seg' not in single['data_samples']
    inferencer = MMSegInferencer.__new__(MMSegInferencer)
    by_inferencer = inferencer._init_pipeline(Config(cfg.to_dict()))
    for source in (path, mmcv.imread(path)):
        assert torch.equal(by_inferencer(source)['inputs'], single['inputs'])

    plain = DATASETS.build(Config(cfg.to_dict()).test_dataloader.dataset)
    augmented = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=cfg.tta_pipeline))
    plain, augmented = plain[0], augmented[0]
    truth = 'gt_depth_map' if cfg.tta_model.type == 'DepthTTAModel' else 'gt_sem_seg'
    images = augmented['inputs']
    assert len(images) == (2 if truth == 'gt_depth_map' else 12)
    for image, mirrored in zip(images[::2], images[1::2], strict=True):
        assert torch.equal(image.flip(2), mirrored)
    for sample, mirrored in zip(augmented['data_samples'], [False, True] * 6, strict=False):
        assert bool(sample.flip) == mirrored
        # never augmented: scores are those of the original
        assert torch.equal(sample.get(truth).data, plain['data_samples'].get(truth).data)
    assert any(torch.equal(image, plain['inputs']) for image in images)


def test_depth_is_averaged_in_metres():
    model = MODELS.build(
        dict(
            type='DepthTTAModel',
            module=dict(
                type='SparseDepthEstimator',
                backbone=dict(type='ViT22B', arch='tiny'),
                decode_head=dict(type='LinearDepthHead', in_channels=192),
                data_preprocessor=dict(type='DepthDataPreProcessor'),
            ),
        )
    )
    torch.manual_seed(0)
    maps = torch.rand(3, 2, 1, 4, 5) * 50  # augmentations, images
    truth = PixelData(data=torch.ones(1, 4, 5))
    batches = [
        [SegDataSample(pred_depth_map=PixelData(data=depth), gt_depth_map=truth) for depth in batch] for batch in maps
    ]
    merged = model.merge_preds(list(zip(*batches, strict=True)))
    for sample, expected in zip(merged, maps.mean(0), strict=True):
        assert torch.allclose(sample.pred_depth_map.data, expected)
        assert torch.equal(sample.gt_depth_map.data, truth.data)


def test_a_depth_model_takes_mmsegs_pretrained_as_none_alone():
    cfg = dict(
        type='SparseDepthEstimator',
        backbone=dict(type='ViT22B', arch='tiny'),
        decode_head=dict(type='LinearDepthHead', in_channels=192),
        data_preprocessor=dict(type='DepthDataPreProcessor'),
    )
    MODELS.build(dict(cfg, pretrained=None))
    with pytest.raises(ValueError, match=r"pretrained='x\.pth': .*backbone\.init_cfg"):
        MODELS.build(dict(cfg, pretrained='x.pth'))
