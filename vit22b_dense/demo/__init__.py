"""A toy street, made from a seed and cast by rays, with exact labels and depths: in ADE20K's layout or in Waymo's."""
