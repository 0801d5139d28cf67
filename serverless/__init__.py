"""The RunPod serverless adapter: jobs over the same operation table as the pod."""
