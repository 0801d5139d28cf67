"""A worker that cuts videos into scenes and embeds them, and a page that finds scenes by words or by a picture."""
