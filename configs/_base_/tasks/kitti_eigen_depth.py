"""KITTI in Eigen's split (arXiv 1406.2283) with the annotated depth maps: 23,158 training and 652 test images.

The lists lie in the data's folder, as BTS and others distribute them; 45 of 697 test images have no annotated depth.
Published with the Garg crop and 80 m; others: --cfg-options test_evaluator.crop=eigen test_evaluator.max_depth=50.
"""

_base_ = ['kitti_depth.py']

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            dataset=dict(data_prefix=dict(depth_path='data_depth_annotated'), ann_file='kitti_eigen_train.txt')
        )
    )
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(depth_path='data_depth_annotated'), ann_file='kitti_eigen_test.txt')
)
test_dataloader = val_dataloader
