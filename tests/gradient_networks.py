"""Networks whose per-patient gradients are tested: each way to shrink, sizes, colours, a ResNet."""

from metaward.model_settings import ModelSettings

MODELS = {
    "stride": ModelSettings(filters=8, groups=2, image_size=16),
    "pool": ModelSettings(filters=8, groups=2, image_size=32, downsample="pool"),
    "odd": ModelSettings(filters=8, groups=2, image_size=19),
    "colour": ModelSettings(filters=8, groups=2, image_size=16, channels=3),
    "colour-pool": ModelSettings(filters=8, groups=4, image_size=32, channels=3, downsample="pool"),
    "resnet": ModelSettings(name="resnet", filters=4, groups=2, image_size=16),
    "colour-resnet": ModelSettings(name="resnet", filters=4, groups=2, image_size=19, channels=3),
}
