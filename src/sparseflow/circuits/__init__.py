"""The smallest set of units with which a decoder still does one task: found, counted and drawn."""
