"""Every table and figure of the paper's pages by name, in the order of the pages."""

from __future__ import annotations

from functools import partial

from sparseflow.lab.page.exhibit import Exhibit
from sparseflow.paper.exhibits import (
    dead_filters,
    film,
    flow,
    grid,
    interpolation,
    landscape,
    masks,
    settings,
    signal,
    similarity,
    spectra,
    tables,
    update_spectra,
    updates,
)  # fmt: skip
from sparseflow.paper.exhibits.networks import SETTINGS
from sparseflow.paper.matrix import measured
from sparseflow.paper.matrix.measured import TABLES
from sparseflow.paper.matrix.scale import Scale

#: The exhibits on MNIST: name -> exhibit. A name is the anchor on the page and the item that ``sparseflow reproduce``
#: takes.
EXHIBITS: dict[str, Exhibit] = {
    "table1": Exhibit(
        title="Table 1: accuracy of LeNet5 by method and initialisation",
        question="How well does each network end?",
        groups=tuple(row.group for row in tables.TABLE1),
        claims=("C06", "C07", "C08", "C13", "C20", "C23", "C24"),
        build=partial(tables.accuracy_table, tables.TABLE1, "table1"),
    ),
    "table5": Exhibit(
        title="Table 5: accuracy of the MLP by method and initialisation",
        question="Is it the same for a network without convolutions?",
        groups=tuple(row.group for row in tables.TABLE5),
        claims=("C08", "C13", "C48", "C49"),
        build=partial(tables.accuracy_table, tables.TABLE5, "table5"),
    ),
    "table2": Exhibit(
        title="Table 2: disagreement of networks, and ensembles",
        question="Does a lottery ticket learn the function of the pruned network?",
        groups=similarity.GROUPS,
        tables=similarity.FUNCTION_TABLES,
        claims=("C36", "C37", "C38", "C39", "C40", "C41", "C43", "C45"),
        build=partial(similarity.similarity_table, "table2", similarity.TABLE2),
    ),
    "table6": Exhibit(
        title="Table 6: divergence of the networks' probabilities",
        question="How far apart are the probabilities that the networks give?",
        groups=similarity.GROUPS,
        tables=similarity.FUNCTION_TABLES,
        claims=("C42",),
        build=partial(similarity.similarity_table, "table6", similarity.TABLE6),
    ),
    "table3": Exhibit(
        title="Table 3: settings of section 4.3",
        question="Which settings did the lottery-ticket runs have?",
        groups=settings.TABLE3,
        build=partial(settings.settings_table, "table3", settings.TABLE3),
    ),
    "table4": Exhibit(
        title="Table 4: settings of sections 4.1 and 4.2",
        question="Which settings did the other runs have?",
        groups=settings.TABLE4,
        build=partial(settings.settings_table, "table4", settings.TABLE4),
    ),
    "fig1c": Exhibit(
        title="Figure 1c: signal at initialisation by sparsity",
        question="How much signal gets through an untrained sparse network?",
        tables=("signal",),
        claims=("C01", "C02", "C03"),
        build=signal.fig1c,
    ),
    "fig2a": Exhibit(
        title="Figure 2a: gradient norm of LeNet5 during training",
        question="How much gradient does each network get?",
        groups=tuple(curve.group for curve in flow.FIG2A),
        claims=("C04", "C05", "C12", "C21", "C29"),
        build=partial(flow.flow_exhibit, "fig2a", flow.FIG2A),
    ),
    "fig7a": Exhibit(
        title="Figure 7a: gradient norm by method, Original and Ours",
        question="Does moving connections help the gradient, too?",
        groups=tuple(curve.group for curve in flow.FIG7A),
        claims=("C22",),
        build=partial(flow.flow_exhibit, "fig7a", flow.FIG7A),
    ),
    "fig7b": Exhibit(
        title="Figure 7b: gradient norm by method, Liu",
        question="And with the initialisation of Liu?",
        groups=tuple(curve.group for curve in flow.FIG7B),
        claims=("C15",),
        build=partial(flow.flow_exhibit, "fig7b", flow.FIG7B),
    ),
    "fig7c": Exhibit(
        title="Figure 7c: gradient norm with He's base initialisation",
        question="Does the usual scale of the weights matter (He instead of Glorot)?",
        groups=tuple(curve.group for curve in flow.FIG7C),
        claims=("C14",),
        build=partial(flow.flow_exhibit, "fig7c", flow.FIG7C),
    ),
    "fig3b": Exhibit(
        title="Figure 3b: change of the gradient norm at mask updates",
        question="What does moving connections do to the gradient?",
        groups=updates.groups_of(updates.FIG3B),
        claims=("C17", "C18", "C19"),
        build=partial(updates.update_exhibit, "fig3b", updates.FIG3B, how=updates.HOW),
    ),
    "fig8b": Exhibit(
        title="Figure 8b: change of the gradient norm at mask updates, by initialisation",
        question="Does that depend on the initialisation?",
        groups=updates.groups_of(updates.FIG8B),
        build=partial(updates.update_exhibit, "fig8b", updates.FIG8B),
    ),
    "fig5a": Exhibit(
        title="Figure 5a: a map of starts and ends",
        question="Where do lottery tickets end, and where do scratch runs?",
        tables=("mds",),
        claims=("C32",),
        build=partial(landscape.map_exhibit, "fig5a", "tickets"),
    ),
    "fig5b": Exhibit(
        title="Figure 5b: distances to the pruned network",
        question="How far is that from the pruned network?",
        tables=("distances",),
        claims=("C30", "C31"),
        build=landscape.fig5b,
    ),
    "fig5c": Exhibit(
        title="Figure 5c: loss on the way to the pruned network",
        question="Is there a barrier on the way?",
        tables=("paths", "barriers"),
        shows=interpolation.shows("tickets"),
        claims=("C33", "C34", "C35"),
        build=partial(interpolation.interpolation, "fig5c", "tickets"),
    ),
    "fig9a": Exhibit(
        title="Figure 9a: gradient norm of the MLP during training",
        question="The MLP: how much gradient does each network get?",
        groups=tuple(curve.group for curve in flow.FIG9A),
        claims=("C50",),
        build=partial(flow.flow_exhibit, "fig9a", flow.FIG9A),
    ),
    "fig9b": Exhibit(
        title="Figure 9b: change of the gradient norm at mask updates, MLP",
        question="The MLP: what does moving connections do to the gradient?",
        groups=updates.groups_of(updates.FIG9B),
        claims=("C50",),
        build=partial(updates.update_exhibit, "fig9b", updates.FIG9B),
    ),
    "fig9c": Exhibit(
        title="Figure 9c: loss on the way to the pruned network, MLP",
        question="The MLP: is there a barrier on the way to the pruned network?",
        tables=("paths", "barriers"),
        shows=interpolation.shows("mlp-tickets"),
        claims=("C50",),
        build=partial(interpolation.interpolation, "fig9c", "mlp-tickets"),
    ),
    "fig10": Exhibit(
        title="Figure 10: Hessian spectrum before and after a mask update",
        question="How does moving connections bend the loss?",
        tables=("spectra", "eigenvalues"),
        shows=update_spectra.shows,
        claims=("C25", "C26"),
        build=update_spectra.fig10,
    ),
    "fig11a": Exhibit(
        title="Figure 11a: the most negative eigenvalue during training",
        question="How steep are the ways down during training?",
        tables=("spectra",),
        shows=spectra.shows,
        claims=("C27",),
        build=spectra.fig11a,
    ),
    "fig11b": Exhibit(
        title="Figure 11b: Hessian spectrum at four steps",
        question="What does the whole spectrum look like on the way?",
        tables=("eigenvalues",),
        shows=spectra.shows_at_four,
        claims=("C28",),
        build=spectra.fig11b,
    ),
    "film": Exhibit(
        title="Film: the Hessian spectrum over training",
        question="How does the spectrum move while the network learns?",
        tables=("eigenvalues",),
        shows=spectra.shows,
        build=film.film,
    ),
    "masks": Exhibit(
        title="Masks twice: two runs on every mask of Table 1",
        question="Is a bad end the doing of the mask?",
        groups=masks.GROUPS,
        build=masks.masks_twice,
    ),
    "dead-filters": Exhibit(
        title="Dead filters: accuracy by the first-layer filters that are alive",
        question="Why do some sparse networks end low?",
        groups=dead_filters.GROUPS,
        build=dead_filters.dead_filter_exhibit,
    ),
    "grid": Exhibit(
        title="Grid searches: choosing settings by held-out and by test images",
        question="What if settings are chosen without looking at the test images?",
        groups=tuple(grid.SEARCHES),
        build=grid.grid,
    ),
    "claims": Exhibit(
        title="Claims: the paper's statements, one by one",
        question="Which claims of the paper hold?",
        groups=("*",),
        tables=tuple(name for names in TABLES.values() for name in names),
        build=None,
    ),
}


def image_exhibits(scale: Scale) -> dict[str, Exhibit]:
    """The exhibits of a scale on images: name, which is the anchor on the page, -> exhibit.

    >>> from sparseflow.paper.matrix.scales import SCALES
    >>> list(image_exhibits(SCALES["smoke"])), "fig2c" in image_exhibits(SCALES["imagenet"])
    (['smoke'], True)
    """
    if not scale.is_judged:
        question = "Does every method run, on both networks?"
        return {"smoke": Exhibit(title="Every run", question=question, build=tables.smoke_exhibit)}
    vgg, resnet = (
        [setting for setting in SETTINGS[scale.name] if setting.paper == paper] for paper in ("VGG16", "ResNet50")
    )
    exhibits = {
        "table1": Exhibit(
            title="Table 1: accuracy by method and initialisation",
            question="How well does each network end?",
            claims=("C06", "C08", "C09", "C13", "C20", "C23", "C44", "C52"),
            build=tables.accuracy_exhibit,
        ),
        "fig2b": Exhibit(
            title="Figure 2b: gradient norm and loss of VGG16 during training",
            question="How much gradient does a network without batch norm get?",
            claims=("C04", "C05", "C12", "C21"),
            build=partial(flow.image_flow_exhibit, "fig2b", vgg),
        ),
        "fig2c": Exhibit(
            title="Figure 2c: gradient norm and loss of the ResNet during training",
            question="And one with batch norm and skip connections?",
            claims=("C10", "C11"),
            build=partial(flow.image_flow_exhibit, "fig2c", resnet),
        ),
        "fig3a": Exhibit(
            title="Figures 3a and 8a: change of the ResNet's gradient norm at mask updates",
            question="What does moving connections do to the gradient?",
            claims=("C17", "C18", "C19"),
            build=partial(updates.image_update_exhibit, "fig3a", resnet[0]),
        ),
        "updates-vgg16": Exhibit(
            title="As Figure 3a, of VGG16: change of the gradient norm at mask updates",
            question="And without batch norm?",
            claims=("C17", "C18", "C19"),
            build=partial(updates.image_update_exhibit, "updates-vgg16", vgg[len(vgg) // 2]),
        ),
    }
    setting = measured.SETTINGS.get(scale.name)
    if setting is None:
        return exhibits
    return {
        **exhibits,
        "fig5d": Exhibit(
            title="Figure 5d: a map of starts and ends",
            question="Where do lottery tickets end, and where do scratch runs?",
            claims=("C32",),
            build=partial(landscape.map_exhibit, "map", setting),
        ),
        "fig5e": Exhibit(
            title="Figure 5e: distances to the pruned network",
            question="How far is that from the pruned network?",
            claims=("C30", "C31"),
            build=partial(landscape.distance_exhibit, setting),
        ),
        "fig5f": Exhibit(
            title="Figure 5f: loss on the way to the pruned network",
            question="Is there a barrier on the way?",
            claims=("C33", "C34", "C35"),
            build=partial(interpolation.path_exhibit, setting),
        ),
        "table2": Exhibit(
            title="Tables 2 and 6: disagreement of networks, and ensembles",
            question="Does a lottery ticket learn the function of the pruned network?",
            claims=("C36", "C37", "C38", "C39", "C40", "C41", "C42", "C43", "C45"),
            build=partial(similarity.function_exhibit, setting),
        ),
    }
