"""Layers that store active weights only, and chains of them."""
