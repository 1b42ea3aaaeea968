"""The engine's numbers to reach over dense float32, bf16 autocast and dynamic int8: one row per benchmark.

A row names what is measured (`engine_problems.py`) and, for each pattern, the sparsities with how many times faster
than each rival the sparse form should be: ``at_95=(8, 4.5)`` is 8 times float32 and 4.5 times bf16, ``0`` reports only.
"""

from __future__ import annotations

from functools import partial

from benchmarks.contest import BLOCKS, UNSTRUCTURED, Trial, entries, row
from benchmarks.engine_problems import (
    convolution,
    few_examples,
    image_network,
    linear,
    mlp_inference,
    paper_network,
    transformer_block,
    transformer_encoder,
    user_mlp,
)

INNERMOST = "batch innermost"

BENCHMARKS = (
    row(
        "engine_user_mlp",
        "Sequential(Linear 1024, ReLU, Linear 1024, ReLU), batch 128, forward + backward",
        Trial(
            user_mlp,
            entries(UNSTRUCTURED, at_80=0, at_90=4.5, at_95=(8, 4.5), at_98=14)
            + entries(BLOCKS, at_80=(4, 2.2), at_90=(7, 4), at_95=(12, 6.5), at_98=(19, 11)),
        ),
    ),
    row(
        "engine_mlp_inference",
        "the same MLP, inference",
        Trial(partial(mlp_inference, 1), entries(UNSTRUCTURED, at_95=(0, 0, 1)) + entries(BLOCKS, at_95=0)),
        Trial(partial(mlp_inference, 16), entries(UNSTRUCTURED, at_95=(0, 0, 1.3)) + entries(BLOCKS, at_95=0)),
        Trial(
            partial(mlp_inference, 128), entries(UNSTRUCTURED, at_95=(0, 0, 1.3)) + entries(BLOCKS, at_95=(0, 0, 2.2))
        ),
    ),
    row(
        "engine_linear",
        "linear layer, batch 128, forward + backward",
        Trial(
            partial(linear, 1024, 1024, "contiguous"),
            entries(UNSTRUCTURED, at_90=0, at_95=9, at_98=0) + entries(BLOCKS, at_90=0, at_95=12, at_98=0),
        ),
        Trial(
            partial(linear, 4096, 1024, "contiguous"),
            entries(UNSTRUCTURED, at_90=0, at_95=10, at_98=0) + entries(BLOCKS, at_90=0, at_95=14, at_98=0),
        ),
        Trial(
            partial(linear, 1024, 1024, INNERMOST),
            entries(UNSTRUCTURED, at_90=0, at_95=0, at_98=0) + entries(BLOCKS, at_90=0, at_95=0, at_98=0),
        ),
    ),
    row(
        "engine_two_threads",
        "linear layer on two threads, batch 128, forward + backward",
        Trial(
            partial(linear, 1024, 1024, INNERMOST),
            entries(UNSTRUCTURED, at_95=7) + entries(BLOCKS, at_95=9),
            threads=2,
        ),
        Trial(
            partial(linear, 1024, 1024, "contiguous"),
            entries(UNSTRUCTURED, at_95=0) + entries(BLOCKS, at_95=0),
            threads=2,
        ),
    ),
    *(
        row(
            f"engine_{network}_{way}",
            f"training step with optimizer, {called}, batch 128: {way}",
            Trial(partial(paper_network, network, way), entries(UNSTRUCTURED, **{at: reach})),
        )
        for network, called, at, way, reach in (
            ("lenet5", "LeNet5", "at_95", "modules", 9),
            ("lenet5", "LeNet5", "at_95", "plan", 14),
            ("mlp", "MLP 300-100", "at_98", "modules", 4),
            ("mlp", "MLP 300-100", "at_98", "plan", 10),
        )
    ),
    row(
        "engine_transformer",
        "transformer block (d 512, ffn 2048, 512 tokens), forward + backward",
        Trial(transformer_block, entries(UNSTRUCTURED, at_95=(5, 2.8)) + entries(BLOCKS, at_95=(6, 3.3))),
    ),
    row(
        "engine_encoder",
        "nn.TransformerEncoder (2 layers, d 512, ffn 2048, 8 heads), inference",
        *(
            Trial(partial(transformer_encoder, batch), entries(UNSTRUCTURED, at_95=1.5) + entries(BLOCKS, at_95=0))
            for batch in (1, 8, 64)
        ),
    ),
    row(
        "engine_conv",
        "convolution 3x3, 64->64 on 32x32, batch 32, forward + backward",
        Trial(
            partial(convolution, INNERMOST),
            entries(UNSTRUCTURED, at_90=3.8, at_95=5.5) + entries(BLOCKS, at_90=6, at_95=8),
        ),
        Trial(
            partial(convolution, "contiguous"),
            entries(UNSTRUCTURED, at_90=0, at_95=0) + entries(BLOCKS, at_90=0, at_95=0),
        ),
    ),
    row(
        "engine_vgg16",
        "training step with optimizer, VGG16 on 32x32: plan",
        Trial(
            partial(image_network, "vgg16", "plan", 1 / 4, 128),
            entries(UNSTRUCTURED, at_80=1.3, at_90=2.6, at_95=4.3) + entries(BLOCKS, at_80=2, at_90=3.5, at_95=5.5),
        ),
    ),
    *(
        row(
            name,
            f"training step with optimizer, ResNet-14 on 32x32: {way}",
            Trial(
                partial(image_network, "resnet14", way, 1 / 2, 64),
                entries(UNSTRUCTURED, at_90=2.2, at_95=(2.8, 1.2)) + entries(BLOCKS, at_90=0, at_95=0),
            ),
        )
        for name, way in (("engine_resnet14", "modules"), ("engine_resnet14_plan", "plan"))
    ),
    row(
        "engine_batch_1",
        "linear layer 4096x4096, forward, few examples",
        Trial(partial(few_examples, 1), entries(UNSTRUCTURED, at_95=5) + entries(BLOCKS, at_95=0)),
        *(
            Trial(partial(few_examples, batch), entries(UNSTRUCTURED, at_95=0) + entries(BLOCKS, at_95=0))
            for batch in (2, 4, 8)
        ),
    ),
)
