"""Where RunPod's Hub looks for a handler. The image starts `python -m serverless.handler`; this starts the same."""

from serverless.handler import main

if __name__ == "__main__":
    main()
