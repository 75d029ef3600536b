"""DeiT-III ViT-L/16, 384 px, ImageNet-21k (arXiv 2204.07118), through timm: its weights, or --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:timm}}'
backbone = dict(
    type='TIMMViT',
    model_name='deit3_large_patch16_384.fb_in22k_ft_in1k',
    pretrained=weights == 'timm',
    checkpoint_path='' if weights == 'timm' else weights,
)
patch_size = 16
embed_dims = 1024
levels = (5, 11, 17, 23)
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
