"""Cached: as frozen, with features that tools/cache_features.py has made, from --features DIR or a default place."""

_base_ = ['frozen.py']

runner_type = 'CachedRunner'
# draws: of each image, how many are used; 0 for all that there are
features = dict(folder='{{$VIT22B_FEATURES:default}}', draws=0)
