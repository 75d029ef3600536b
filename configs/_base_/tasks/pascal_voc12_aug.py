"""Pascal VOC 2012 with the augmented set (SBD, 'trainaug'): 10,582 training images."""

_base_ = ['pascal_voc12.py']

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            dataset=dict(
                _delete_=True,
                type='ConcatDataset',
                datasets=[
                    dict(
                        **_base_.dataset,
                        ann_file='ImageSets/Segmentation/train.txt',
                        pipeline=_base_.train_pipeline,
                    ),
                    dict(
                        type=_base_.dataset.type,
                        data_root=_base_.dataset.data_root,
                        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
                        ann_file='ImageSets/Segmentation/aug.txt',
                        pipeline=_base_.train_pipeline,
                    ),
                ],
            )
        )
    )
)
