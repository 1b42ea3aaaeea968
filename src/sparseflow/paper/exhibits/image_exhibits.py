"""Every table and figure of the page about image runs, in its order."""

from __future__ import annotations

from functools import partial

from sparseflow.lab.page.exhibit import Exhibit
from sparseflow.paper.exhibits.flow_of_images import flow_exhibit, map_exhibit, path_exhibit, updates_exhibit
from sparseflow.paper.exhibits.image_settings import SETTINGS
from sparseflow.paper.exhibits.image_tables import accuracy_exhibit, distance_exhibit, function_exhibit, smoke_exhibit
from sparseflow.paper.matrix import image_measured
from sparseflow.paper.matrix.image_scales import ImageScale

_SMOKE = Exhibit(title="Every run", question="Does every method run, on both networks?", build=smoke_exhibit)


def image_exhibits(scale: ImageScale) -> dict[str, Exhibit]:
    """Name, which is the anchor on the page, -> exhibit.

    >>> from sparseflow.paper.matrix.image_scales import IMAGE_SCALES
    >>> list(image_exhibits(IMAGE_SCALES["smoke"])), "fig2c" in image_exhibits(IMAGE_SCALES["imagenet"])
    (['smoke'], True)
    """
    if not scale.is_judged:
        return {"smoke": _SMOKE}
    vgg, resnet = (
        [setting for setting in SETTINGS[scale.name] if setting.paper == paper] for paper in ("VGG16", "ResNet50")
    )
    exhibits = {
        "table1": Exhibit(
            title="Table 1: accuracy by method and initialisation",
            question="How well does each network end?",
            claims=("C06", "C08", "C09", "C13", "C20", "C23", "C44", "C52"),
            build=accuracy_exhibit,
        ),
        "fig2b": Exhibit(
            title="Figure 2b: gradient norm and loss of VGG16 during training",
            question="How much gradient does a network without batch norm get?",
            claims=("C04", "C05", "C12", "C21"),
            build=partial(flow_exhibit, "fig2b", vgg),
        ),
        "fig2c": Exhibit(
            title="Figure 2c: gradient norm and loss of the ResNet during training",
            question="And one with batch norm and skip connections?",
            claims=("C10", "C11"),
            build=partial(flow_exhibit, "fig2c", resnet),
        ),
        "fig3a": Exhibit(
            title="Figures 3a and 8a: change of the ResNet's gradient norm at mask updates",
            question="What does moving connections do to the gradient?",
            claims=("C17", "C18", "C19"),
            build=partial(updates_exhibit, "fig3a", resnet[0]),
        ),
        "updates-vgg16": Exhibit(
            title="As Figure 3a, of VGG16: change of the gradient norm at mask updates",
            question="And without batch norm?",
            claims=("C17", "C18", "C19"),
            build=partial(updates_exhibit, "updates-vgg16", vgg[len(vgg) // 2]),
        ),
    }
    setting = image_measured.SETTINGS.get(scale.name)
    if setting is None:
        return exhibits
    return {
        **exhibits,
        "fig5d": Exhibit(
            title="Figure 5d: a map of starts and ends",
            question="Where do lottery tickets end, and where do scratch runs?",
            claims=("C32",),
            build=map_exhibit,
        ),
        "fig5e": Exhibit(
            title="Figure 5e: distances to the pruned network",
            question="How far is that from the pruned network?",
            claims=("C30", "C31"),
            build=partial(distance_exhibit, setting),
        ),
        "fig5f": Exhibit(
            title="Figure 5f: loss on the way to the pruned network",
            question="Is there a barrier on the way?",
            claims=("C33", "C34", "C35"),
            build=partial(path_exhibit, setting),
        ),
        "table2": Exhibit(
            title="Tables 2 and 6: disagreement of networks, and ensembles",
            question="Does a lottery ticket learn the function of the pruned network?",
            claims=("C36", "C37", "C38", "C39", "C40", "C41", "C42", "C43", "C45"),
            build=partial(function_exhibit, setting),
        ),
    }
