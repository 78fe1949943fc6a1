"""Tests of the registries: one suite for all of them, and tests of single ones."""
