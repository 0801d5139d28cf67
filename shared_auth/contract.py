"""What services and clients agree on beside signatures: the operations' paths, and the bounds of their members."""

EMBED_IMAGE = "/v1/embed/image"
EMBED_IMAGE_BATCH = "/v1/embed/image-batch"
EMBED_TEXT = "/v1/embed/text"
EMBED_TEXT_BATCH = "/v1/embed/text-batch"
HEALTH = "/health"

MAX_URL_CHARACTERS = 4096
MAX_TEXT_CHARACTERS = 10_000
MAX_REQUEST_ID_CHARACTERS = 128

# What a service takes unless it is told otherwise: MAX_BATCH_SIZE, MAX_TEXT_BATCH_SIZE.
IMAGES_PER_BATCH = 16
TEXTS_PER_BATCH = 256

# How long the caller still waits: a header to a pod, a member of a job's input.
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TIMEOUT_MEMBER = "timeout_ms"
MOST_TIMEOUT_MS = 999_999_999
