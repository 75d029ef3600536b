"""A toy street: a small street made from a seed, cast by rays, with exact labels and depths.

`scene.make_street` gives the geometry, `camera.render` a picture of it; `ade.write_ade` writes a data set in
ADE20K's layout, `waymo.write_waymo` (which needs pyarrow) one in Waymo's, with LiDAR.
"""
