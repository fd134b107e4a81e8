"""Serving engines that can prune; nothing here is imported until one asks."""
