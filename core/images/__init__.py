"""From what a stranger hosts to pixels, in processes of their own."""
