"""Others' servers, as one writes them by their own documentation, to be measured beside ours."""
