"""A training pipeline as testing would have it."""


def plain_pipeline(training: list[dict], testing: list[dict]) -> list[dict]:
    """A training pipeline without what is random, but for the crop: loaded, resized and packed as in testing.

    Args:
        training, testing: the pipelines of the config.
    """
    kinds = {step['type'] for step in testing}
    resize = next((step for step in testing if 'Resize' in step['type']), None)
    plain = []
    for step in training:
        if step['type'] in kinds or 'Crop' in step['type']:
            plain.append(step)
        elif 'Resize' in step['type'] and resize:
            plain.append(resize)
    return plain
