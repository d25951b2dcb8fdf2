"""Scene coordinates: X-rays simulated from a shape model, a network that reads them, pose and shape from it."""
