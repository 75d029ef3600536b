"""Results of others under the few-shot protocol, as they were published."""

from types import MappingProxyType

DATA_SET = 'ADE20KDataset'
CONDITIONS = 'ADE20K validation mIoU, linear decoder, trained end to end'
SOURCE = 'InternVL, arXiv 2312.14238, table 5a'
# mIoU by fraction of the 20,210 training images
FRACTIONS = ('1/16', '1/8', '1/4', '1/2', '1')
ROWS = MappingProxyType(
    {
        'DeiT-III ViT-L': {'1/16': 36.1, '1/8': 41.3, '1/4': 45.6, '1/2': 48.4, '1': 51.9},
        'ViT-G': {'1/16': 42.4, '1/8': 47.0, '1/4': 50.2, '1/2': 52.4, '1': 55.6},
        'ViT-22B': {'1/16': 44.7, '1/8': 47.2, '1/4': 50.6, '1/2': 52.5, '1': 54.9},
        'InternViT-6B': {'1/16': 46.5, '1/8': 50.0, '1/4': 53.3, '1/2': 55.8, '1': 57.2},
    }
)
