"""Files that deployments are made of: request bodies, manifests, and two scripts that the images use."""
