"""Packaging: pyproject.toml has all of it. Apache Beam wants this file."""

import setuptools

setuptools.setup()
