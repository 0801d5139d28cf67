"""The CLIP service without a transport: settings, downloading, pixels, model, batching, operations."""
