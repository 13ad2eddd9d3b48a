"""The machine, its processes, and how they meet and end."""
