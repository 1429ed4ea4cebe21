"""Training scripts and the modules they share; installed as `modeling_dvpo.training`."""
