"""What a run needs, compiled for devices that are not here."""
