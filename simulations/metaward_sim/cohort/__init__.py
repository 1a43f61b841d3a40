"""Procedural patients: findings, anatomy, scanners, and the hospitals that share them out.

Everything here is synthetic. It imitates what makes few-shot learning across hospitals hard
(findings anywhere in the image, patients that differ, scanners that differ), not any disease.
"""
