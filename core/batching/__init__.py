"""From items of many requests to forward passes: one scheduler, and the devices it feeds."""
