"""Where clips come from: simulated worlds, folders of real video, stored clips."""
