"""Waymo Open Dataset v2: from the released parquet components to images with sparse z-depth, and back."""
