"""The experiment stack: data, models, training runs, their store, and the pages made from them (extra ``[lab]``)."""
