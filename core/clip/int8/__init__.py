"""int8 for CPUs: rounds a model's layers, judges what came out on pictures and texts it has not seen, or refuses it."""
