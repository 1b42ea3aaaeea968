r"""Lottery tickets, restarts and their controls, on models and state dicts, for any training loop.

A pruning run starts from weights :math:`w_0`, passes :math:`w_K`, and ends with weights :math:`w_T` and masks
:math:`M`. Keep the states with ``snapshot(model)`` when they occur; then every experiment is a line or two, each
followed by a *new* optimizer, ``sf.Sparsifier(model, optimizer, masks, sf.Static(), seed=s)`` and the full schedule:

=========================  ================================  ==========================================================
experiment                 weights at its start              calls
=========================  ================================  ==========================================================
lottery ticket             :math:`w_0 \odot M`               ``rewind_(model, start, masks)``
late rewinding             :math:`w_K \odot M`               ``rewind_(model, step_k, masks)``
prune restart              :math:`w_T \odot M`               ``rewind_(model, end, masks)``
scratch, same init         one new draw for all runs         ``draw = snapshot(build())``, then each run
                                                             ``rewind_(model, draw, masks)``
scratch, different init    a new draw each run               ``rewind_(model, snapshot(build()), masks)``
scratch, sparse init       a draw scaled to the mask         ``sf.initialize_(model, masks, scheme="sparse", seed=s)``
ticket, weights re-drawn   new weights, biases 0             ``rewind_(...)``, then
                                                             ``sf.initialize_(model, masks, scheme="dense", seed=s)``
shuffled mask              :math:`w_0 \odot \mathrm{sh}(M)`  ``masks = shuffle_masks(masks, seed=s)``, then
                                                             ``rewind_(model, start, masks)``
shuffled weights           those of the ticket, elsewhere    ``rewind_(...)``, then ``shuffle_weights_``
signs only                 signs of the ticket               ``rewind_(...)``, then ``keep_signs_``
perturbed ticket           ticket + noise                    ``rewind_(...)``, then ``perturb_``
iterative pruning          :math:`w_K \odot M_r`             ``iterative_pruning(..., rewind_to=step_k)``
learning-rate rewinding    :math:`w_{T,r-1} \odot M_r`       ``iterative_pruning(..., rewind_to=None)``
=========================  ================================  ==========================================================

Reference: Frankle and Carbin (2019), *The Lottery Ticket Hypothesis*; Evci et al. (2022), section 4.3; protocol E.
"""

from sparseflow.tickets.controls import keep_signs_, perturb_, shuffle_masks, shuffle_weights_
from sparseflow.tickets.iterative import Round, iterative_pruning
from sparseflow.tickets.rewind import State, reset_optimizer_, rewind_, snapshot

__all__ = [
    "Round",
    "State",
    "iterative_pruning",
    "keep_signs_",
    "perturb_",
    "reset_optimizer_",
    "rewind_",
    "shuffle_masks",
    "shuffle_weights_",
    "snapshot",
]
