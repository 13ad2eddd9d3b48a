"""What launch does besides training, planning and sweeping."""
