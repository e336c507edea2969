"""Prompt sets from texts, lists and files."""
