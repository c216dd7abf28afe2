"""Released checkpoints of GSMN, HREM and SGM, loaded into the models of this package."""
