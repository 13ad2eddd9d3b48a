"""The modes of launch other than training, planning and sweeping."""
