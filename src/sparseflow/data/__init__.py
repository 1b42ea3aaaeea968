"""ImageNet and CIFAR-10 from the Hugging Face hub, parquet files or folders: order and pixels follow from a seed."""

from sparseflow.vision.data.augment import (
    CIFAR10,
    IMAGENET,
    Statistics,
    centre_crop_box,
    normalise,
    random_resized_crop_box,
)
from sparseflow.vision.data.decode import BrokenImageError, decode
from sparseflow.vision.data.draws import uniforms
from sparseflow.vision.data.hub import hub_source
from sparseflow.vision.data.loader import ImageBatches, evaluation_batches, image_batches
from sparseflow.vision.data.memory import DecodedImages, decode_all, decoded_batches
from sparseflow.vision.data.order import Positions, epoch_order, global_batch, rank_slices
from sparseflow.vision.data.sources import ImageSource, folder_source, open_images
from sparseflow.vision.data.tables import parquet_source, unpack
from sparseflow.vision.data.transforms import CentreCrop, PadCropFlip, RandomResizedCrop, Transform, Unchanged

__all__ = [
    "CIFAR10",
    "IMAGENET",
    "BrokenImageError",
    "CentreCrop",
    "DecodedImages",
    "ImageBatches",
    "ImageSource",
    "PadCropFlip",
    "Positions",
    "RandomResizedCrop",
    "Statistics",
    "Transform",
    "Unchanged",
    "centre_crop_box",
    "decode",
    "decode_all",
    "decoded_batches",
    "epoch_order",
    "evaluation_batches",
    "folder_source",
    "global_batch",
    "hub_source",
    "image_batches",
    "normalise",
    "open_images",
    "parquet_source",
    "random_resized_crop_box",
    "rank_slices",
    "uniforms",
    "unpack",
]
