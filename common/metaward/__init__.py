"""Federated meta-learning for hospitals: tasks, episodes, learners, evaluation, wire format."""
