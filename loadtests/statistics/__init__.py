"""How often the guards of rollouts and the prompt tests err, and how soon they see harm: measured by simulation."""
