"""Changes of a MuJoCo scene under which a policy is deployed: ``make_task(name, perturb=("lighting", "camera"))``."""
