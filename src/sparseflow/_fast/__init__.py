"""Passes over memory that the core calls when a tensor is large; each has a plain twin in torch and one caller."""
