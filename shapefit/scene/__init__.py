"""Scene coordinates: simulated X-rays, a network that reads them, and pose and shape from what it reads."""
