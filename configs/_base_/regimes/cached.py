"""Cached: as frozen, with features that tools/cache_features.py has made, from --features DIR or a default place."""

_base_ = ['frozen.py']

runner_type = 'CachedRunner'
features = dict(
    folder='{{$VIT22B_FEATURES:default}}', draws=0
)  # draws of each image that are used; 0: all that there are
