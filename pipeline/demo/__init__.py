"""Demo data: rendered scenes with captions and detections, and public-domain photos."""
