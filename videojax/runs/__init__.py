"""What a run directory holds, and how a run starts or resumes."""
