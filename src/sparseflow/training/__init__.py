"""Networks and data for natural images: what the paper trains on ImageNet."""
