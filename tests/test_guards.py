"""Numbers that are none: refused where weights are read, and a training stops at the first such loss."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import REPO, make_ade
from mmseg.registry import DATASETS
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from vit22b_dense import ViT22B
from vit22b_dense.checkpoint import CheckpointError, check_finite, load_weights
from vit22b_dense.datasets.loading import DataError
from vit22b_dense.engine.config import load_config
from vit22b_dense.engine.guards import CompleteDataHook, DivergedError
from vit22b_dense.engine.hooks import AtomicCheckpointHook, CheckpointFitHook
from vit22b_dense.engine.run import build_training

SMALL = {
    'train_cfg.max_iters': 4, 'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False, 'default_hooks.checkpoint.interval': 1,
    'model.decode_head.in_channels': 16, 'model.data_preprocessor.size': (56, 56),
    'train_dataloader.dataset.dataset.dataset.pipeline.2.scale': (112, 56),
    'train_dataloader.dataset.dataset.dataset.pipeline.3.crop_size': (56, 56),
}  # fmt: skip


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_one_value_that_is_no_number_is_found(dtype, value):
    if dtype == torch.float8_e4m3fn and value == value:
        pytest.skip('the type has no infinity')
    tensor = torch.randn(50, 7).to(dtype)
    check_finite(dict(a=tensor, empty=tensor[:0], whole=torch.ones(3, dtype=torch.int64)), 'file.pth')
    tensor.view(-1)[123] = value
    with pytest.raises(CheckpointError, match=r'file.pth: NaN or infinite values in a \(50, 7\)'):
        check_finite(dict(a=tensor), 'file.pth')


def test_weights_with_nan_are_refused_wherever_they_are_loaded(tmp_path):
    model = nn.Linear(3, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state['weight'][1, 1] = torch.nan
    with pytest.raises(CheckpointError, match='NaN or infinite values in weight'):
        load_weights(model, state, 'file.pth')
    runner = SimpleNamespace(model=model, _load_from='file.pth')
    with pytest.raises(CheckpointError, match='file.pth: NaN or infinite values in weight'):
        CheckpointFitHook().after_load_checkpoint(runner, dict(state_dict=state))
    arch = dict(embed_dims=8, num_layers=1, num_heads=2, mlp_dims=8)
    weights = ViT22B(arch).state_dict()
    weights['norm.weight'].fill_(torch.inf)
    save_file(weights, tmp_path / 'w.safetensors')
    with pytest.raises(CheckpointError, match=r'w.safetensors: NaN or infinite values in'):
        ViT22B(arch, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.safetensors'))).init_weights()


def hf_folder(folder, **more):
    transformers = pytest.importorskip('transformers')
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    model = transformers.Dinov2Model(config)
    model.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file({**state, **more.get('replaced', {})}, folder / 'model.safetensors', metadata=dict(format='pt'))
    return state


def test_weights_of_transformers_are_refused_as_whole_numbers_and_from_other_folders(tmp_path):
    from vit22b_dense.models.backbones.huggingface import HFBackbone

    state = hf_folder(tmp_path / 'm')
    name = next(name for name in state if name.endswith('fc1.weight'))
    for bad, message in (
        (state[name].to(torch.int32), 'no floating point'),
        (torch.full_like(state[name], torch.nan), 'NaN or infinite values'),
    ):
        hf_folder(tmp_path / 'm', replaced={name: bad})
        with pytest.raises(CheckpointError, match=message):
            HFBackbone(str(tmp_path / 'm')).init_weights()
    (tmp_path / 'm/model.safetensors').rename(tmp_path / 'model.safetensors')
    index = dict(metadata={}, weight_map=dict.fromkeys(state, '../model.safetensors'))
    (tmp_path / 'm/model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match='names shards outside of its folder'):
        HFBackbone(str(tmp_path / 'm')).init_weights()


def training(tmp_path, **options):
    root = tmp_path / 'ade'
    if not root.exists():
        make_ade(root)
    axes = dict(backbone='vit22b_tiny', regime='scratch', data_root=str(root))
    cfg = load_config(REPO / 'configs/demo/linear.py', axes, SMALL | options)
    cfg.model.backbone.arch = dict(embed_dims=16, num_layers=1, num_heads=2, mlp_dims=16)
    cfg.work_dir, cfg.resume, cfg.launcher = str(tmp_path / 'run'), False, 'none'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.visualizer.name = str(tmp_path)  # mmengine keeps one of a name for the whole process
    return build_training(cfg)


def test_a_training_stops_at_a_loss_that_is_no_number_and_keeps_the_last_good_checkpoint(tmp_path):
    runner = training(tmp_path)
    losses = type(runner.model.decode_head).loss_by_feat

    def spoiled(self, *arguments):
        found = losses(self, *arguments)
        return {k: v * torch.nan if runner.iter == 2 and 'loss' in k else v for k, v in found.items()}

    runner.model.decode_head.loss_by_feat = spoiled.__get__(runner.model.decode_head)
    with pytest.raises(DivergedError, match=r'iteration 3: .*loss_ce is nan.*iter_2.pth, is from before'):
        runner.train()
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    check_finite(torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)['state_dict'], 'iter_2.pth')


def test_weights_that_are_no_numbers_are_not_saved():
    checkpoint = dict(meta=dict(iter=7), state_dict=dict(weight=torch.full((2, 2), torch.nan)))
    with pytest.raises(CheckpointError, match='weights of iteration 7, which are not saved: NaN or infinite values'):
        AtomicCheckpointHook().before_save_checkpoint(None, checkpoint)


def test_a_run_looks_for_its_data_first(tmp_path):
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    root = make_ade(tmp_path / 'ade')
    dataset = DATASETS.build(dict(type='ADE20KDataset', data_root=str(root), data_prefix=prefix))
    loop = SimpleNamespace(dataloader=DataLoader(dataset))
    runner = SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=loop)
    CompleteDataHook().before_run(runner)
    (tmp_path / 'ade/images/training/09.jpg').symlink_to('nowhere')
    with pytest.raises(DataError, match='09.jpg: a broken link'):
        CompleteDataHook().before_run(runner)
