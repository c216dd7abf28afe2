"""Released checkpoints of GSMN, HREM and SGM, loaded into the models of this package."""

from models.released.checkpoints import load_official

__all__ = ["load_official"]
