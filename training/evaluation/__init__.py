"""What `evaluate_critic.py` is made of."""
