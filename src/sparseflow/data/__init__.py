"""ImageNet and CIFAR-10 from the Hugging Face hub, parquet files or folders: order and pixels follow from a seed."""

from sparseflow.data.augment import (
    CIFAR10,
    IMAGENET,
    Statistics,
    centre_crop_box,
    normalise,
    random_resized_crop_box,
)
from sparseflow.data.decode import BrokenImageError, decode
from sparseflow.data.draws import uniforms
from sparseflow.data.hub import hub_source
from sparseflow.data.loader import ImageBatches, UnreadableImageWarning, evaluation_batches, image_batches
from sparseflow.data.memory import DecodedImages, decode_all, decoded_batches
from sparseflow.data.order import Positions, epoch_order, global_batch, rank_slices
from sparseflow.data.sources import ImageSource, folder_source, open_images
from sparseflow.data.tables import parquet_source, unpack
from sparseflow.data.transforms import CentreCrop, PadCropFlip, RandomResizedCrop, Transform, Unchanged

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
    "UnreadableImageWarning",
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
