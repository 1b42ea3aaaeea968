"""Every table and figure of the page by name, in the order of the page."""

from __future__ import annotations

from sparseflow.lab.page.exhibit import Exhibit
from sparseflow.paper.exhibits import film, grid, settings, similarity, tables
from sparseflow.paper.exhibits import flow as figures_flow
from sparseflow.paper.exhibits import interpolation as figures_interpolation
from sparseflow.paper.exhibits import landscape as figures_landscape
from sparseflow.paper.exhibits import masks as figures_masks
from sparseflow.paper.exhibits import signal as figure_signal
from sparseflow.paper.exhibits import spectra as figures_spectra
from sparseflow.paper.exhibits import update_spectra as figures_update_spectra
from sparseflow.paper.exhibits import updates as figures_updates
from sparseflow.paper.exhibits.updates import FIG3B, FIG8B, FIG9B, groups_of
from sparseflow.paper.matrix.measured import TABLES

#: Name -> exhibit. A name is the anchor on the page and the item that ``sparseflow reproduce`` takes.
EXHIBITS: dict[str, Exhibit] = {
    "table1": Exhibit(
        title="Table 1: accuracy of LeNet5 by method and initialisation",
        question="How well does each network end?",
        groups=tuple(row.group for row in tables.TABLE1),
        claims=("C06", "C07", "C08", "C13", "C20", "C23", "C24"),
        build=tables.table1,
    ),
    "table5": Exhibit(
        title="Table 5: accuracy of the MLP by method and initialisation",
        question="Is it the same for a network without convolutions?",
        groups=tuple(row.group for row in tables.TABLE5),
        claims=("C08", "C13", "C48", "C49"),
        build=tables.table5,
    ),
    "table2": Exhibit(
        title="Table 2: disagreement of networks, and ensembles",
        question="Does a lottery ticket learn the function of the pruned network?",
        groups=similarity.GROUPS,
        tables=similarity.FUNCTION_TABLES,
        claims=("C36", "C37", "C38", "C39", "C40", "C41", "C43", "C45"),
        build=similarity.table2,
    ),
    "table6": Exhibit(
        title="Table 6: divergence of the networks' probabilities",
        question="How far apart are the probabilities that the networks give?",
        groups=similarity.GROUPS,
        tables=similarity.FUNCTION_TABLES,
        claims=("C42",),
        build=similarity.table6,
    ),
    "table3": Exhibit(
        title="Table 3: settings of section 4.3",
        question="Which settings did the lottery-ticket runs have?",
        groups=settings.TABLE3,
        build=settings.table3,
    ),
    "table4": Exhibit(
        title="Table 4: settings of sections 4.1 and 4.2",
        question="Which settings did the other runs have?",
        groups=settings.TABLE4,
        build=settings.table4,
    ),
    "fig1c": Exhibit(
        title="Figure 1c: signal at initialisation by sparsity",
        question="How much signal gets through an untrained sparse network?",
        tables=("signal",),
        claims=("C01", "C02", "C03"),
        build=figure_signal.fig1c,
    ),
    "fig2a": Exhibit(
        title="Figure 2a: gradient norm of LeNet5 during training",
        question="How much gradient does each network get?",
        groups=tuple(curve.group for curve in figures_flow.FIG2A),
        claims=("C04", "C05", "C12", "C21", "C29"),
        build=figures_flow.fig2a,
    ),
    "fig7a": Exhibit(
        title="Figure 7a: gradient norm by method, Original and Ours",
        question="Does moving connections help the gradient, too?",
        groups=tuple(curve.group for curve in figures_flow.FIG7A),
        claims=("C22",),
        build=figures_flow.fig7a,
    ),
    "fig7b": Exhibit(
        title="Figure 7b: gradient norm by method, Liu",
        question="And with the initialisation of Liu?",
        groups=tuple(curve.group for curve in figures_flow.FIG7B),
        claims=("C15",),
        build=figures_flow.fig7b,
    ),
    "fig7c": Exhibit(
        title="Figure 7c: gradient norm with He's base initialisation",
        question="Does the usual scale of the weights matter (He instead of Glorot)?",
        groups=tuple(curve.group for curve in figures_flow.FIG7C),
        claims=("C14",),
        build=figures_flow.fig7c,
    ),
    "fig3b": Exhibit(
        title="Figure 3b: change of the gradient norm at mask updates",
        question="What does moving connections do to the gradient?",
        groups=groups_of(FIG3B),
        claims=("C17", "C18", "C19"),
        build=figures_updates.fig3b,
    ),
    "fig8b": Exhibit(
        title="Figure 8b: change of the gradient norm at mask updates, by initialisation",
        question="Does that depend on the initialisation?",
        groups=groups_of(FIG8B),
        build=figures_updates.fig8b,
    ),
    "fig5a": Exhibit(
        title="Figure 5a: a map of starts and ends",
        question="Where do lottery tickets end, and where do scratch runs?",
        tables=("mds",),
        claims=("C32",),
        build=figures_landscape.fig5a,
    ),
    "fig5b": Exhibit(
        title="Figure 5b: distances to the pruned network",
        question="How far is that from the pruned network?",
        groups=("tickets/lottery", "tickets/scratch"),
        tables=("distances",),
        claims=("C30", "C31"),
        build=figures_landscape.fig5b,
    ),
    "fig5c": Exhibit(
        title="Figure 5c: loss on the way to the pruned network",
        question="Is there a barrier on the way?",
        tables=("paths",),
        shows=figures_interpolation.shows("tickets"),
        claims=("C33", "C34", "C35"),
        build=figures_interpolation.fig5c,
    ),
    "fig9a": Exhibit(
        title="Figure 9a: gradient norm of the MLP during training",
        question="The MLP: how much gradient does each network get?",
        groups=tuple(curve.group for curve in figures_flow.FIG9A),
        claims=("C50",),
        build=figures_flow.fig9a,
    ),
    "fig9b": Exhibit(
        title="Figure 9b: change of the gradient norm at mask updates, MLP",
        question="The MLP: what does moving connections do to the gradient?",
        groups=groups_of(FIG9B),
        claims=("C50",),
        build=figures_updates.fig9b,
    ),
    "fig9c": Exhibit(
        title="Figure 9c: loss on the way to the pruned network, MLP",
        question="The MLP: is there a barrier on the way to the pruned network?",
        tables=("paths",),
        shows=figures_interpolation.shows("mlp-tickets"),
        claims=("C50",),
        build=figures_interpolation.fig9c,
    ),
    "fig10": Exhibit(
        title="Figure 10: Hessian spectrum before and after a mask update",
        question="How does moving connections bend the loss?",
        tables=("spectra", "eigenvalues"),
        shows=figures_update_spectra.shows,
        claims=("C25", "C26"),
        build=figures_update_spectra.fig10,
    ),
    "fig11a": Exhibit(
        title="Figure 11a: the most negative eigenvalue during training",
        question="How steep are the ways down during training?",
        tables=("spectra",),
        shows=figures_spectra.shows,
        claims=("C27",),
        build=figures_spectra.fig11a,
    ),
    "fig11b": Exhibit(
        title="Figure 11b: Hessian spectrum at four steps",
        question="What does the whole spectrum look like on the way?",
        tables=("eigenvalues",),
        shows=figures_spectra.shows_at_four,
        claims=("C28",),
        build=figures_spectra.fig11b,
    ),
    "film": Exhibit(
        title="Film: the Hessian spectrum over training",
        question="How does the spectrum move while the network learns?",
        tables=("eigenvalues",),
        shows=figures_spectra.shows,
        build=film.film,
    ),
    "masks": Exhibit(
        title="Masks twice: two runs on every mask of Table 1",
        question="Is a bad end the doing of the mask?",
        groups=figures_masks.GROUPS,
        build=figures_masks.masks_twice,
    ),
    "grid": Exhibit(
        title="Grid search: choosing settings by held-out and by test images",
        question="What if settings are chosen without looking at the test images?",
        groups=("grid",),
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
