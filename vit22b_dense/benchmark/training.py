"""Training iterations of a decoder: live, with the frozen backbone in each, and from cached features."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..checkpoint import Reference
from ..engine.features.cached import HALF, CachedBackbone
from ..engine.features.store import FeatureStore, Sample
from .dense import model_of
from .timing import Group

BATCH = 4
CLASSES = (11, 150)  # of CamVid and of ADE20K
FIELD = 28  # pixels of the fields of one class


def training_groups(sizes: list[str], pixels: int, device: torch.device) -> Iterator[Group]:
    """An iteration of a linear decoder on `BATCH` crops of ``pixels`` squared: forward, backward and AdamW's step.

    The live cases begin with images in memory, without reading and augmenting them; the cached ones with shards in
    bfloat16 on disk. The loss is at the resolution of the pixels or of the tokens.
    """
    images = torch.randn(BATCH, 3, pixels, pixels, device=device)
    for size, classes in ((size, classes) for size in sizes for classes in CLASSES):
        labels = torch.randint(0, classes, (BATCH, 1, pixels // FIELD, pixels // FIELD), dtype=torch.uint8)
        labels = labels.repeat_interleave(FIELD, 2).repeat_interleave(FIELD, 3)
        model = model_of('linear', size, classes, dict(mode='whole')).to(device)
        with TemporaryDirectory() as folder:
            store = _store(Path(folder), model.backbone, images, labels)
            data = {
                'live': (model.backbone, partial(_images, images, labels)),
                'cached': (CachedBackbone(folder), partial(_addresses, store, device)),
            }
            cases = {}
            for loss_at, kind in product(('pixels', 'tokens'), data):
                trained = model_of('linear', size, classes, dict(mode='whole')).to(device)
                trained.backbone, read = data[kind]
                trained.decode_head.loss_at = loss_at
                cases[f'{kind}, loss at {loss_at}'] = _iteration(trained.train(), read)
            yield Group('training', f'{size}, linear, {BATCH} of {pixels} px, {classes} classes', cases)


@torch.no_grad()
def _store(folder: Path, backbone: nn.Module, images: Tensor, labels: Tensor) -> FeatureStore:
    """The features of some images, with their labels."""
    about = {name: getattr(backbone, name) for name in ('embed_dims', 'num_layers', 'patch_size')}
    levels = (backbone.num_layers - 1,)
    store = FeatureStore(folder, {}, 'bf16', levels, about, 'gt_sem_seg', 1, Reference('random', seed=0))
    store.write_index()
    (maps,) = backbone(images)
    for i, (one, label) in enumerate(zip(maps, labels, strict=True)):
        store.write('train0', Sample(str(i), ''), {f'level{levels[0]}': one}, {'gt_sem_seg': label})
    return store


def _images(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels


def _addresses(store: FeatureStore, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """What a data set of features gives: addresses ``(B, 4, 1, 1)`` and labels ``(1, H, W)``."""
    numbers = [Sample(str(i), '').number for i in range(BATCH)]
    places = torch.tensor([[*divmod(number, HALF), 0, 0] for number in numbers], dtype=torch.float32, device=device)
    return places[..., None, None], [store.read('train0', number, ['gt_sem_seg'])[0] for number in numbers]


def _iteration(model: nn.Module, data: Callable[[], tuple[Tensor, Tensor | list[Tensor]]]) -> Callable[[], None]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)

    def iteration() -> None:
        inputs, labels = data()
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label.to(inputs.device, torch.int64))) for label in labels]
        losses = model.loss(inputs, samples)
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        optimizer.step()

    return iteration
