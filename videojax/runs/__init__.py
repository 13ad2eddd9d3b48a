"""What a run directory holds, and how a run goes on."""
