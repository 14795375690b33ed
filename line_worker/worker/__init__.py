"""The worker: owns a device, batches frames and returns results."""
